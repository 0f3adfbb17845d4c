"""Simulate two surveys of the same sky in their own file layouts, with the truth: a mock, not observed.

It writes a directory: APOGEE DR16 (allStar, apStar and asStar files) and GALAH DR3 (allstar, allspec, camera
files) catalogues and spectra, Gaia, distance and cluster tables, and truth.fits. The spectra come from a
small line model of its own (Boltzmann, Saha, curve of growth); the labels have the offsets of the paper's
Table 1.

Examples:
  cc-mock -o mock --common 40 --apogee-only 10 --galah-only 10 --clusters 0 --overwrite
  cc-mock -o mock --seed 7 --common 40 --clusters 0 --set label_noise=false --overwrite
  cc-mock --print-config
"""
from cannonkit import cli, config

BLOCK = 32


def build_parser():
    parser = cli.new_parser("cc-mock", __doc__)
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", required=True, metavar="DIR",
                       help="directory to write; it appears only when it is whole")
    group.add_argument("--overwrite", action="store_true", help="replace DIR if it holds an earlier mock")
    group.add_argument("--dry-run", action="store_true", help="print what would be written, write nothing")
    cli.add_settings(parser, config.Mock)
    return parser


def run(args):
    from cannonkit.directory import new_directory
    from cannonkit.stages import mock

    settings = config.resolve(config.Mock, args)
    plan = mock.plan(settings)
    n_apogee, n_galah = len(plan.apogee.star), len(plan.galah.star)
    if cli.dry_run(args, apogee_files=n_apogee, galah_files=4 * n_galah, stars=len(plan.stars)):
        return
    with new_directory(args.output, args.overwrite, "truth.fits") as folder:
        _tables(folder, plan, settings, args)
        with cli.Progress(n_apogee + n_galah, "spectra", args) as progress:
            _spectra(folder, plan, settings, progress)
    n_star = int((plan.stars["in_apogee"] | plan.stars["in_galah"]).sum())
    common = int((plan.stars["in_apogee"] & plan.stars["in_galah"]).sum())
    cli.log(f"a mock, seed {settings.seed}: {n_apogee} APOGEE and {n_galah} GALAH spectra of "
            f"{n_star} stars, {common} of them in both surveys")


def _tables(folder, plan, settings, args):
    import os

    from cannonkit import mock_files, stream
    from cannonkit.stages import mock

    seed = settings.seed

    def put(name, data):
        mock_files.write(os.path.join(folder, name), data)

    allstar = mock.apogee_rows(plan, mock_files.ALLSTAR)
    put("apogee/allStar-r12-mock.fits", mock_files.allstar_bytes(allstar, seed))
    allspec = mock.galah_rows(plan, mock_files.GALAH)
    put("galah/GALAH_DR3_main_allspec_mock.fits", mock_files.table_bytes(mock_files.GALAH, allspec, seed))
    put("galah/GALAH_DR3_main_allstar_mock.fits",
        mock_files.table_bytes(mock_files.GALAH, allspec[allspec["flag_repeat"] == 0], seed))
    gaia, distances, n = mock.gaia_columns(plan.stars, settings)
    put("gaia_edr3_mock.fits",
        mock_files.table_bytes(mock_files.GAIA, mock.rows(mock_files.GAIA, gaia, n), seed))
    put("distances_mock.fits",
        mock_files.table_bytes(mock_files.DISTANCES, mock.rows(mock_files.DISTANCES, distances, n), seed))
    members, n = mock.cluster_columns(plan.stars, settings)
    put("clusters_mock.fits",
        mock_files.table_bytes(mock_files.CLUSTERS, mock.rows(mock_files.CLUSTERS, members, n), seed))
    truth = mock.truth_rows(plan)
    header = {"MOCK": (True, "simulated: not an observation"), "GENERATR": mock_files.GENERATOR,
              "MOCKSEED": seed}
    with stream.create(os.path.join(folder, "truth.fits"), "truth", mock.truth_table(), len(truth),
                       header=header, record=cli.record(args, settings)) as out:
        out.write(truth)


def _spectra(folder, plan, settings, progress):
    """Make spectra block by block; a second thread writes files while the next block is computed."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from cannonkit import mock_files, recipe
    from cannonkit.stages import mock, mock_spectra

    clear = [pixel.wavelength for pixel in recipe.read_continuum("apogee_continuum")]
    synthesis = mock_spectra.Synthesis(clear)
    allstar = mock.apogee_rows(plan, mock_files.ALLSTAR)

    def write_apogee(which, planes, weight, shift):
        for j, i in enumerate(which):
            row, visits = allstar[i], int(plan.visits[i])
            own = {name: plane[j] for name, plane in planes.items()}
            flat = bool(i % 2 == 0)
            data = mock_files.apstar_bytes(row, own, visits, weight[j], shift[j], settings.seed, flat)
            mock_files.write(os.path.join(folder, "apogee", "spectra", row["TELESCOPE"].decode().strip(),
                                          row["FIELD"].decode().strip(), row["FILE"].decode().strip()), data)
        return len(which)

    def write_galah(which, cameras, grids):
        start, step, _ = grids
        for j, i in enumerate(which):
            name = str(plan.galah.columns["sobject_id"][i])
            for c in range(4):
                if plan.missing_camera[i] != c:
                    data = mock_files.galah_bytes(cameras[c], name, j, start[j, c], step[j, c], settings.seed,
                                                  not plan.no_hdu4[i])
                    mock_files.write(os.path.join(folder, "galah", "spectra", f"{name}{c + 1}.fits"), data)
        return len(which)

    def blocks():
        n = len(plan.apogee.star)
        order = np.argsort(plan.visits, kind="stable")      # files with as many rows together: small blocks
        for first in range(0, n, BLOCK):
            which = order[first:first + BLOCK]
            planes, weight, shift, _ = mock_spectra.apogee_block(
                synthesis, plan.stars, mock_spectra.take(plan.apogee.observations, which), plan.visits[which],
                settings)
            yield write_apogee, (which, planes, weight, shift)
        for first in range(0, len(plan.galah.star), BLOCK):
            which = np.arange(first, min(first + BLOCK, len(plan.galah.star)))
            grids = tuple(g[which] for g in plan.grids)
            cameras = mock_spectra.galah_block(
                synthesis, plan.stars, mock_spectra.take(plan.galah.observations, which), grids, settings)
            yield write_galah, (which, cameras, grids)

    with ThreadPoolExecutor(1) as writer:
        pending = None
        for function, arguments in blocks():
            if pending is not None:
                progress.advance(pending.result())
            pending = writer.submit(function, *arguments)
        if pending is not None:
            progress.advance(pending.result())


def main(argv=None):
    return cli.main(build_parser(), run, argv)

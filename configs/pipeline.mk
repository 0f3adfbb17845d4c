# The whole run, from two survey catalogues to two scaled catalogues and a report page.
#
#   make -f pipeline.mk RUN=myrun APOGEE=allStar.fits APOGEE_ROOT=stars/ GALAH=allstar.fits ...
#
# Resumable: a target is remade only when something that it is made from has changed, and no command leaves
# half a file. Safe with -j. All intermediate products stay in $(RUN); `cc-check --tree` shows their history.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

HERE := $(dir $(lastword $(MAKEFILE_LIST)))
RUN ?= run

# --- inputs: the surveys' own files --------------------------------------------------------------
APOGEE ?= $(RUN)/mock/apogee/allStar-r12-mock.fits
APOGEE_ROOT ?= $(RUN)/mock/apogee/spectra
GALAH ?= $(RUN)/mock/galah/GALAH_DR3_main_allstar_mock.fits
GALAH_ALLSPEC ?= $(RUN)/mock/galah/GALAH_DR3_main_allspec_mock.fits
GALAH_ROOT ?= $(RUN)/mock/galah/spectra
# Tables attached to the catalogues (empty: none).
GAIA ?= $(RUN)/mock/gaia_edr3_mock.fits
DISTANCES ?= $(RUN)/mock/distances_mock.fits

# --- how: recipes and settings -------------------------------------------------------------------
APOGEE_RECIPE ?= $(HERE)apogee_dr16.yaml
GALAH_RECIPE ?= $(HERE)galah_dr3.yaml
PAIR_RECIPE ?= $(HERE)apogee_galah.yaml
# APOGEE DR16 has no EDR3 identifiers: the closest source within 1 arcsec.
APOGEE_GAIA_RECIPE ?= $(HERE)gaia_edr3_sky.yaml
GALAH_GAIA_RECIPE ?= $(HERE)gaia_edr3.yaml
DISTANCES_RECIPE ?= $(HERE)distances_geo.yaml
# Sections crossmatch and resample of CONFIG count too, but a change of it alone does not select and resample again.
CONFIG ?= $(HERE)cannon.yaml
# Share of the stars with repeats that the errors of X.pulls.fits have not seen; empty: no X.pulls.fits.
FOLDS ?= 5
# CSV (wavelength,difference) drawn with the pairs of Figures A4 and A5; a mock has one.
PAIR_TEMPLATE ?= $(wildcard $(RUN)/mock/nitrogen_template.csv)
# Options for every command (such as --quiet), and for some.
OPTIONS ?=
TRAIN_OPTIONS ?=

MODELS := acgs gcgs gcaa acaa
comma := ,
CC := --config $(CONFIG) --overwrite $(OPTIONS)

.PHONY: all catalogues report summary
all: catalogues report summary
catalogues: $(RUN)/galah_scaled.fits $(RUN)/apogee_scaled.fits
report: $(RUN)/report/index.html
summary: catalogues
	cc-report summary $(RUN)

# --- which stars ---------------------------------------------------------------------------------
ATTACH = $(if $(GAIA),--attach $(GAIA) $(GAIA_RECIPE)) $(if $(DISTANCES),--attach $(DISTANCES) $(DISTANCES_RECIPE))
$(RUN)/apogee_catalogue.fits: GAIA_RECIPE = $(APOGEE_GAIA_RECIPE)
$(RUN)/galah_catalogue.fits: GAIA_RECIPE = $(GALAH_GAIA_RECIPE)
$(RUN)/apogee_catalogue.fits: $(if $(GAIA),$(APOGEE_GAIA_RECIPE))
$(RUN)/galah_catalogue.fits: $(if $(GAIA),$(GALAH_GAIA_RECIPE))
$(RUN)/apogee_catalogue.fits $(RUN)/galah_catalogue.fits: $(if $(DISTANCES),$(DISTANCES_RECIPE))

$(RUN)/training.fits: $(APOGEE) $(GALAH) $(PAIR_RECIPE) $(APOGEE_RECIPE) $(GALAH_RECIPE)
	cc-crossmatch $(APOGEE) $(GALAH) --recipe $(PAIR_RECIPE) -o $@ $(CC)

$(RUN)/apogee_catalogue.fits: $(APOGEE) $(APOGEE_RECIPE) $(GAIA) $(DISTANCES)
	cc-crossmatch $(APOGEE) --recipe $(APOGEE_RECIPE) --select catalogue $(ATTACH) -o $@ $(CC)

$(RUN)/galah_catalogue.fits: $(GALAH) $(GALAH_RECIPE) $(GAIA) $(DISTANCES)
	cc-crossmatch $(GALAH) --recipe $(GALAH_RECIPE) --select catalogue $(ATTACH) -o $@ $(CC)

$(RUN)/apogee_repeats.fits: $(APOGEE) $(APOGEE_RECIPE)
	cc-crossmatch $(APOGEE) --recipe $(APOGEE_RECIPE) --select repeats -o $@ $(CC)

$(RUN)/galah_repeats.fits: $(GALAH_ALLSPEC) $(GALAH_RECIPE)
	cc-crossmatch $(GALAH_ALLSPEC) --recipe $(GALAH_RECIPE) --select repeats -o $@ $(CC)

# --- their spectra on one grid -------------------------------------------------------------------
$(RUN)/apogee_spectra.fits $(RUN)/apogee_repeat_spectra.fits: RESAMPLE = --recipe $(APOGEE_RECIPE) --root $(APOGEE_ROOT)
$(RUN)/galah_spectra.fits $(RUN)/galah_repeat_spectra.fits: RESAMPLE = --recipe $(GALAH_RECIPE) --root $(GALAH_ROOT)
$(RUN)/apogee_spectra.fits $(RUN)/apogee_repeat_spectra.fits: $(APOGEE_RECIPE)
$(RUN)/galah_spectra.fits $(RUN)/galah_repeat_spectra.fits: $(GALAH_RECIPE)

$(RUN)/%_spectra.fits: $(RUN)/%_catalogue.fits
	cc-resample $< $(RESAMPLE) -o $@ $(CC)

$(RUN)/%_repeat_spectra.fits: $(RUN)/%_repeats.fits
	cc-resample $< $(RESAMPLE) -o $@ $(CC)

# --- four models: spectra of one survey, labels of one survey ------------------------------------
$(RUN)/acgs.model.fits $(RUN)/acaa.model.fits: $(RUN)/apogee_spectra.fits
$(RUN)/gcgs.model.fits $(RUN)/gcaa.model.fits: $(RUN)/galah_spectra.fits
$(RUN)/acgs.model.fits $(RUN)/gcgs.model.fits: LABELS = galah
$(RUN)/acaa.model.fits $(RUN)/gcaa.model.fits: LABELS = apogee

$(MODELS:%=$(RUN)/%.model.fits): $(RUN)/%.model.fits: $(RUN)/training.fits $(CONFIG)
	cc-train $(filter %_spectra.fits,$^) --training $(RUN)/training.fits --labels $(LABELS) \
	    $(TRAIN_OPTIONS) -o $@ $(CC)

# Figure A3 of the paper, an experiment: ACAA with GALAH's relation for v_micro. `make figure-a3`, then the report.
VMICRO_RECIPE ?= $(HERE)apogee_galah_vmicro.yaml
.PHONY: figure-a3
figure-a3: $(RUN)/vmicro/acaa.model.fits

$(RUN)/vmicro/training.fits: $(APOGEE) $(GALAH) $(VMICRO_RECIPE) $(APOGEE_RECIPE) $(GALAH_RECIPE)
	mkdir -p $(@D)
	cc-crossmatch $(APOGEE) $(GALAH) --recipe $(VMICRO_RECIPE) -o $@ $(CC)

$(RUN)/vmicro/acaa.model.fits: $(RUN)/vmicro/training.fits $(RUN)/apogee_spectra.fits $(CONFIG)
	cc-train $(RUN)/apogee_spectra.fits --training $< --labels apogee $(TRAIN_OPTIONS) -o $@ $(CC)

# --- labels of every spectrum: both models of a survey in one pass -------------------------------
$(RUN)/acgs.labels.fits $(RUN)/acaa.labels.fits &: $(RUN)/apogee_spectra.fits $(RUN)/acgs.model.fits $(RUN)/acaa.model.fits $(CONFIG)
	cc-infer $< -m $(RUN)/acgs.model.fits -o $(RUN)/acgs.labels.fits \
	    -m $(RUN)/acaa.model.fits -o $(RUN)/acaa.labels.fits $(CC)

$(RUN)/gcgs.labels.fits $(RUN)/gcaa.labels.fits &: $(RUN)/galah_spectra.fits $(RUN)/gcgs.model.fits $(RUN)/gcaa.model.fits $(CONFIG)
	cc-infer $< -m $(RUN)/gcgs.model.fits -o $(RUN)/gcgs.labels.fits \
	    -m $(RUN)/gcaa.model.fits -o $(RUN)/gcaa.labels.fits $(CC)

$(RUN)/acgs.repeats.fits $(RUN)/acaa.repeats.fits &: $(RUN)/apogee_repeat_spectra.fits $(RUN)/acgs.model.fits $(RUN)/acaa.model.fits $(CONFIG)
	cc-infer $< -m $(RUN)/acgs.model.fits -o $(RUN)/acgs.repeats.fits \
	    -m $(RUN)/acaa.model.fits -o $(RUN)/acaa.repeats.fits $(CC)

$(RUN)/gcgs.repeats.fits $(RUN)/gcaa.repeats.fits &: $(RUN)/galah_repeat_spectra.fits $(RUN)/gcgs.model.fits $(RUN)/gcaa.model.fits $(CONFIG)
	cc-infer $< -m $(RUN)/gcgs.model.fits -o $(RUN)/gcgs.repeats.fits \
	    -m $(RUN)/gcaa.model.fits -o $(RUN)/gcaa.repeats.fits $(CC)

# --- flags, error factors from the repeats, final errors -----------------------------------------
$(RUN)/acgs.flagged.fits $(RUN)/acaa.flagged.fits: SURVEY = --survey $(RUN)/apogee_catalogue.fits --recipe $(APOGEE_RECIPE)
$(RUN)/gcgs.flagged.fits $(RUN)/gcaa.flagged.fits: SURVEY = --survey $(RUN)/galah_catalogue.fits --recipe $(GALAH_RECIPE)
$(RUN)/acgs.flagged.fits $(RUN)/acaa.flagged.fits: $(RUN)/apogee_catalogue.fits $(APOGEE_RECIPE)
$(RUN)/gcgs.flagged.fits $(RUN)/gcaa.flagged.fits: $(RUN)/galah_catalogue.fits $(GALAH_RECIPE)

$(MODELS:%=$(RUN)/%.flagged.fits): $(RUN)/%.flagged.fits: $(RUN)/%.labels.fits $(RUN)/%.model.fits $(CONFIG)
	cc-flag $< -m $(RUN)/$*.model.fits $(SURVEY) -o $@ $(CC)

$(MODELS:%=$(RUN)/%.errors.fits): $(RUN)/%.errors.fits: $(RUN)/%.repeats.fits $(CONFIG)
	cc-errors calibrate $< -o $@ $(CC)

$(MODELS:%=$(RUN)/%.final.fits): $(RUN)/%.final.fits: $(RUN)/%.flagged.fits $(RUN)/%.errors.fits $(CONFIG)
	cc-errors apply $< --errors $(RUN)/$*.errors.fits -o $@ $(CC)

# How right such errors are: each fifth of the stars judged by what is calibrated on the others, widths of their pulls.
$(MODELS:%=$(RUN)/%.pulls.fits): $(RUN)/%.pulls.fits: $(RUN)/%.repeats.fits $(CONFIG)
	cc-errors validate $< --across $(FOLDS) --error-model full -o $@ $(CC)

# --- the two catalogues --------------------------------------------------------------------------
SURVEYS := --survey $(RUN)/apogee_catalogue.fits --recipe $(APOGEE_RECIPE) \
           --survey $(RUN)/galah_catalogue.fits --recipe $(GALAH_RECIPE)

$(RUN)/galah_scaled.fits: $(RUN)/acgs.final.fits $(RUN)/gcgs.final.fits
$(RUN)/apogee_scaled.fits: $(RUN)/acaa.final.fits $(RUN)/gcaa.final.fits
$(RUN)/galah_scaled.fits $(RUN)/apogee_scaled.fits: $(RUN)/apogee_catalogue.fits $(RUN)/galah_catalogue.fits $(CONFIG)
	cc-merge catalogue $(filter %.final.fits,$^) $(SURVEYS) -o $@ $(CC)

# --- the report: of everything that lies in $(RUN) -----------------------------------------------
REPORTED := training apogee_catalogue galah_catalogue apogee_repeats galah_repeats \
    $(foreach survey,apogee galah,$(survey)_spectra $(survey)_repeat_spectra) \
    $(foreach kind,model final repeats errors $(if $(FOLDS),pulls),$(MODELS:%=%.$(kind))) galah_scaled apogee_scaled

# Other recipes than the report's own are named to it.
RECIPES := $(if $(filter-out $(HERE)apogee_dr16.yaml $(HERE)galah_dr3.yaml,$(APOGEE_RECIPE) $(GALAH_RECIPE)), \
    --recipes $(APOGEE_RECIPE)$(comma)$(GALAH_RECIPE))

$(RUN)/report/index.html: $(REPORTED:%=$(RUN)/%.fits) $(CONFIG) $(wildcard $(RUN)/truth.fits \
    $(RUN)/clusters.fits $(RUN)/vmicro/*.model.fits \
    $(RUN)/mock/truth.fits $(RUN)/mock/clusters*.fits)
	cc-report page $(RUN) -o $(RUN)/report $(RECIPES) $(if $(PAIR_TEMPLATE),--pair-template $(PAIR_TEMPLATE)) $(CC)

.SECONDARY:

# The real spectra, labels and catalogues of ../shared/data through the commands (make real).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:

HERE := $(dir $(lastword $(MAKEFILE_LIST)))
RUN ?= build/real
DATA ?= ../shared/data
CC := --overwrite

.PHONY: all galah apogee m67 giants miles pseudo errors
all: galah apogee m67 giants miles pseudo errors
	@echo "real data: products and pictures are in $(RUN)"

$(RUN)/prepared: $(HERE)real/prepare.py
	mkdir -p $(RUN)
	python $(HERE)real/prepare.py $(DATA) $(RUN)
	touch $@

# --- 36 GALAH DR3 stars: four cameras, one star without camera 4, odd lengths, blank names ---------
galah: $(RUN)/galah36.png
$(RUN)/galah36_stars.fits: $(RUN)/prepared
	cc-crossmatch $(RUN)/galah36.fits --recipe $(HERE)real/galah_pseudo.yaml --select all -v -o $@ $(CC)
$(RUN)/galah36_spectra.fits: $(RUN)/galah36_stars.fits
	cc-resample $< --recipe galah_dr3 --root $(DATA)/galah_dr3_spectra -o $@ $(CC)
$(RUN)/galah36.png: $(RUN)/galah36_spectra.fits
	cc-report spectra $< -o $@ $(CC)

# --- one apStar, combined and visit by visit --------------------------------------------------------
apogee: $(RUN)/apogee1.png
$(RUN)/apogee1_stars.fits: $(RUN)/prepared
	cc-crossmatch $(RUN)/apogee1.fits --recipe $(HERE)real/apogee_one.yaml --select all -o $@ $(CC)
$(RUN)/apogee1_spectra.fits: $(RUN)/apogee1_stars.fits
	cc-resample $< --recipe apogee_dr16 --visits all --root $(DATA)/apogee_spectra -o $@ $(CC)
$(RUN)/apogee1.png: $(RUN)/apogee1_spectra.fits
	cc-report spectra $< -o $@ $(CC)

# --- M67: GALAH DR3 and APOGEE OCCAM rows, by identifier and on the sky -------------------------------
m67: $(RUN)/m67_id.fits $(RUN)/m67_sky.fits
M67 := $(DATA)/catalogues/galah_dr3_m67.csv $(DATA)/catalogues/apogee_dr16_occam_members.fits
$(RUN)/m67_id.fits: $(RUN)/prepared $(HERE)real/m67.yaml
	cc-crossmatch $(M67) --recipe $(HERE)real/m67.yaml -v -o $@ $(CC)
$(RUN)/m67_sky.fits: $(RUN)/prepared $(HERE)real/m67.yaml
	cc-crossmatch $(M67) --recipe $(HERE)real/m67.yaml --by sky --radius 1 -v -o $@ $(CC)

# --- a published Cannon of APOGEE giants on the apStar ------------------------------------------------
giants: $(RUN)/giant_labels.fits
	python $(HERE)real/show.py giant $< $(DATA)
$(RUN)/giant_labels.fits: $(RUN)/apogee1_spectra.fits
	cc-infer $< -m $(RUN)/bovy.model.fits -o $@ $(CC)

# --- MILES: 256 stars with labels from the literature, five folds --------------------------------------
miles: $(RUN)/miles.flagged.fits $(RUN)/miles.png
	python $(HERE)real/show.py crossval $(RUN)/miles.model.fits
MILES := $(DATA)/labelled_miles/miles_stars.fits
$(RUN)/miles_stars.fits: $(RUN)/prepared
	cc-crossmatch $(MILES) --recipe miles --select all -v -o $@ $(CC)
$(RUN)/miles_spectra.fits: $(RUN)/miles_stars.fits
	cc-resample $< --recipe miles --root $(DATA)/labelled_miles -o $@ $(CC)
$(RUN)/miles.model.fits: $(RUN)/miles_spectra.fits
	cc-train $< --training $(RUN)/miles_stars.fits --labels miles --scatter reml --cross-validate 5 -o $@ $(CC)
$(RUN)/miles.labels.fits: $(RUN)/miles_spectra.fits $(RUN)/miles.model.fits
	cc-infer $< -m $(RUN)/miles.model.fits -o $@ $(CC)
$(RUN)/miles.flagged.fits: $(RUN)/miles.labels.fits
	cc-flag $< -m $(RUN)/miles.model.fits --survey $(RUN)/miles_stars.fits --recipe miles -o $@ $(CC)
$(RUN)/miles.png: $(RUN)/miles.model.fits
	cc-report one-to-one $< -o $@ $(CC)

# --- the machinery on 36 real GALAH spectra with pseudo-labels, leave-one-out: no accuracy claim --------
pseudo: $(RUN)/pseudo.model.fits
	python $(HERE)real/show.py crossval $<
$(RUN)/pseudo.model.fits: $(RUN)/galah36_spectra.fits
	cc-train $< --training $(RUN)/galah36_stars.fits --labels galah --order 1 --scatter reml \
	    --leave-one-group-out -o $@ $(CC)

# --- error factors of real Cannon labels against reference labels (no repeats) --------------------------
errors: $(RUN)/dr4.errors.fits $(RUN)/dr4.pulls.fits
	python $(HERE)real/show.py pulls $(RUN)/dr4.pulls.fits
DR4 := $(DATA)/labels/galah_dr4_labels_cannon_kfold.fits --labels teff,logg,fe_h --label-column '{}_cannon' \
    --covariance cov_cannon --covariance-units scaled --against '{}'
$(RUN)/dr4.errors.fits: $(RUN)/prepared
	cc-errors calibrate $(DR4) -o $@ $(CC)
# Three of the Cannon's five folds are there: each is judged by the calibration of the other two.
$(RUN)/dr4.pulls.fits: $(RUN)/prepared
	cc-errors validate $(DR4) --across fold --error-model full -o $@ $(CC)

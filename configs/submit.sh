#!/bin/bash
# The whole pipeline on Slurm: array jobs for what goes star by star, dependent jobs for the rest.
#
#   RUN=/scratch/me/run APOGEE=allStar.fits APOGEE_ROOT=spectra/ ... configs/submit.sh
#
# Settings, all from the environment: those of pipeline.mk (RUN, APOGEE, GALAH, recipes, CONFIG, ...), and
#   PARTS      tasks of each array job (4)
#   CPUS       processors of a task; threads follow them (2)
#   MODELS     models to make (acgs gcgs gcaa acaa)
#   SCALES     catalogues to make (galah_scaled apogee_scaled)
#   FOLDS      parts of the repeats for widths of pulls (5); empty: none
#   SBATCH     options for every job, such as --partition=short --time=60
# Submit it again after any failure: parts that are whole and made from the same inputs and settings are not
# made again. A task that ends with 75 (a passing trouble) is tried again where slurm.conf has RequeueExit=75.
# Prints a line for each job: its number and its name.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export HERE RUN=${RUN:?set RUN to the directory of the run}
export PARTS=${PARTS:-4} MODELS=${MODELS:-acgs gcgs gcaa acaa} SCALES=${SCALES:-galah_scaled apogee_scaled}
export CONFIG=${CONFIG:-$HERE/cannon.yaml} FOLDS=${FOLDS-5}
export APOGEE_RECIPE=${APOGEE_RECIPE:-$HERE/apogee_dr16.yaml} GALAH_RECIPE=${GALAH_RECIPE:-$HERE/galah_dr3.yaml}
export APOGEE_ROOT=${APOGEE_ROOT:-$RUN/mock/apogee/spectra} GALAH_ROOT=${GALAH_ROOT:-$RUN/mock/galah/spectra}
mkdir -p "$RUN/logs" "$RUN/parts"

# submit NAME AFTER SCRIPT [sbatch options]: the job's number. AFTER: kind:number... or nothing.
submit() {
    local name=$1 after=$2 script=$3 number
    shift 3
    number=$(sbatch --parsable --job-name="$name" --cpus-per-task="${CPUS:-2}" --requeue --open-mode=append \
        --kill-on-invalid-dep=yes ${after:+--dependency="$after"} ${SBATCH:-} "$@" "$HERE/$script.sbatch")
    echo "${number%%;*} $name" >&2
    echo "${number%%;*}"
}

# parts NAME AFTER SCRIPT: an array job that writes parts of $RUN/NAME.fits, and the job that joins them.
# It runs even if a part failed (afterany), and then says which one is missing.
parts() {
    local name=$1 after=$2 script=$3 array
    array=$(PRODUCT=$name submit "$name" "$after" "$script" --array="0-$((PARTS - 1))" --output="$RUN/logs/%x-%A_%a.log")
    PRODUCT=$name submit "$name-merge" "afterany:$array" merge --output="$RUN/logs/%x-%j.log"
}

one() {
    local name=$1 after=$2 script=$3
    PRODUCT=$name submit "$name" "$after" "$script" --output="$RUN/logs/%x-%j.log"
}

warm=$(one warmup "" warmup)
select=$(one select "afterok:$warm" select)

declare -A spectra repeats model
for survey in apogee galah; do
    spectra[$survey]=$(parts "${survey}_spectra" "afterok:$select" resample)
    repeats[$survey]=$(parts "${survey}_repeat_spectra" "afterok:$select" resample)
done
survey_of() { case $1 in a*) echo apogee;; g*) echo galah;; esac; }

for m in $MODELS; do
    model[$m]=$(one "$m.model" "afterok:${spectra[$(survey_of "$m")]}" train)
done
models=$(IFS=:; echo "${model[*]}")
finals=
for m in $MODELS; do
    s=$(survey_of "$m")
    labels=$(parts "$m.labels" "afterok:$models" infer)
    again=$(parts "$m.repeats" "afterok:$models:${repeats[$s]}" infer)
    flagged=$(parts "$m.flagged" "afterok:$labels" flag)
    finals+=":$(one "$m.final" "afterok:$flagged:$again" errors)"
    [ -z "$FOLDS" ] || one "$m.pulls" "afterok:$again" pulls >/dev/null     # no other job waits for it
done
one catalogue "afterok$finals" catalogue >/dev/null

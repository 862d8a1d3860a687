#!/usr/bin/env bash
# Checks numbers, then fills every GPU table of docs/benchmarks.md. At most six minutes on one GPU.
#
#     benchmarks/gpu.sh [--output FILE] [--stages "check tiny …"] [--device cpu --small]
#
# FILE (default: gpu-tables.md) is Markdown; FILE.log holds what the stages say besides. Each stage has a time limit of
# its own, and one that fails stops no other. Exit status: how many failed. PYTHON names another interpreter.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

python=${PYTHON:-python}
output=gpu-tables.md
stages=
options=()
while (($#)); do
    case $1 in
        --output) output=$2; shift ;;
        --stages) stages=$2; shift ;;
        --device)
            options+=(--device "$2")
            if [[ $2 == cpu ]]; then export TRITON_INTERPRET=1 slower=10; fi
            shift ;;
        --small) options+=(--small); small=" " ;;
        *) echo "gpu.sh takes --output, --stages, --device and --small, got $1" >&2; exit 2 ;;
    esac
    shift
done

if [[ -z $stages ]]; then stages="machine check tiny base ${small:-large} kernels pretrain"; fi

failed=0
run() {  # title, seconds, module, its options
    local title=$1 limit=$(($2 * ${slower:-1})) module=$3 begin=$SECONDS status
    shift 3
    echo "$title (at most $limit s) …"
    printf '\n### %s\n\n' "$title" >> "$output"
    timeout -k 5 "$limit" "$python" -m "$module" "${options[@]}" "$@" >> "$output" 2>> "$output.log"
    status=$?
    if ((status)); then
        failed=$((failed + 1))
        printf '\n**This stage ended with status %s after %s s:** `%s`\n' \
            "$status" "$((SECONDS - begin))" "$(tail -n 1 "$output.log" | tr -d '`' | cut -c 1-300)" >> "$output"
    fi
    printf '\n' >> "$output"
}

: > "$output"
: > "$output.log"
for stage in $stages; do
    case $stage in
        machine) run "The machine" 15 benchmarks.gpu.machine ;;
        check) run "Numbers" 75 benchmarks.gpu.check ;;
        tiny) run "A training step of V2-Tiny" 60 benchmarks.gpu.steps --limit 42 \
            --rows triton/graph masked/compiled+graph torch/compiled+graph triton/compiled+graph triton/eager \
            minkowski/eager ;;
        base) run "A training step of V2-Base" 60 benchmarks.gpu.steps --model convnextv2_base --limit 40 \
            --rows triton/graph masked/compiled+graph mae/compiled+graph torch/compiled+graph ;;
        large) run "A training step of V2-Large" 55 benchmarks.gpu.steps --model convnextv2_large --limit 34 \
            --rows triton/graph masked/compiled+graph torch/compiled+graph ;;
        kernels) run "Triton kernels" 40 benchmarks.gpu.kernels ;;
        pretrain) run "A pretraining run" 55 benchmarks.gpu.training --limit 43 ;;
        *) echo "no stage is called $stage" | tee -a "$output.log" >&2; failed=$((failed + 1)) ;;
    esac
done
echo "$output: $failed stage(s) failed"
exit "$failed"

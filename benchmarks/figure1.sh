#!/bin/sh
# Figure 1 of arXiv 2405.17888 on hh_harmless: log pi(chosen) - log pi(rejected) on test pairs, methods by three seeds.
#
#     MODEL=HuggingFaceTB/SmolLM2-135M-Instruct DATA=FOLDER OUT=FOLDER sh benchmarks/figure1.sh
#
# DATA holds train.jsonl.gz and test.jsonl.gz, preference rows of which training reads `chosen` alone. What is finished
# is not run again; SEEDS="1 3" trains only these, so that two shells share the work. The numbers, without any text, go
# to benchmarks/results/figure1/.
set -eu
rows="--data $DATA/train.jsonl.gz --max-length 128 --max-bad-share 1 --max-rows 120 --eval-share 0.2"
batches="--per-device-train-batch-size 4 --gradient-accumulation-steps 2"
all="1 2 3"

train() {  # METHOD OUTPUT FLAGS...
    method=$1 output=$2; shift 2
    # shellcheck disable=SC2086
    [ -f "$output/summary.json" ] || demotune "$method" $rows $batches --output "$output" "$@"
}

train sft "$OUT/base" --model "$MODEL"
for seed in ${SEEDS:-$all}; do
    from="--model $OUT/base/model --seed $seed"
    # shellcheck disable=SC2086
    train spin "$OUT/spin-$seed" $from --epochs-per-stage 1
    # shellcheck disable=SC2086
    train irft "$OUT/irft-$seed" $from --epochs-per-stage 1
    # shellcheck disable=SC2086
    train rft "$OUT/rft-$seed" $from --stages 1 --reward-epochs 1 --policy-batches 2 --prompts-per-batch 8 \
        --num-mini-batches 2 --learning-rate 5e-5
    demotune compare "$OUT/irft-$seed" --control sft --output "$OUT/heldout-$seed"
done
[ "${SEEDS:-$all}" = "$all" ] || exit 0
demotune compare "$OUT"/spin-? "$OUT"/irft-? "$OUT"/rft-? "$OUT"/irft-?-control-sft --output "$OUT/heldout"
demotune compare "$OUT"/spin-? "$OUT"/irft-? "$OUT"/rft-? "$OUT"/irft-?-control-sft --data "$DATA/test.jsonl.gz" \
    --max-length 128 --output "$OUT/test"
demotune report "$OUT"/spin-? "$OUT"/irft-? "$OUT"/rft-? --comparison "$OUT/test" --output "$OUT/page.html"
here=$(cd "$(dirname "$0")" && pwd)
python "$here/raw_numbers.py" "$here/results/figure1" "$OUT/heldout" "$OUT/test" "$OUT"/spin-? "$OUT"/irft-? "$OUT"/rft-?

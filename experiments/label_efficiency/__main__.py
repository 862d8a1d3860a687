"""Fine-tuned accuracy by share of the labels, pretrained and from scratch.

    pip install elpv-dataset
    python -m experiments.label_efficiency elpv --folder runs/elpv
    apt-get install dataset-fashion-mnist
    python -m experiments.label_efficiency fashion_mnist --folder runs/fashion_mnist

With --networks rate-low finetune-crops-large … (one change each of pretraining or of fine-tuning) it tells what a
recipe should depend on:

    python -m experiments.label_efficiency elpv --folder runs/elpv --networks v2 rate-low --shares 0.1 --rate 3e-3

With --networks v2 v1 grn-dropped grn-new it is the paper's table 2f: GRN in pretraining, fine-tuning, both or neither.

It prints a table as Markdown and draws FOLDER/label_efficiency.png. Stopped, the same command goes on.
"""

import argparse
from pathlib import Path

from experiments.label_efficiency import table
from experiments.label_efficiency.plan import KNOWN, NETWORKS, PLANS
from experiments.label_efficiency.run import Experiment
from fcmae.cli.allocator import keep_freed_memory


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=PLANS)
    parser.add_argument("--folder", type=Path, required=True, help="data, weights and results")
    parser.add_argument("--networks", nargs="+", choices=KNOWN, default=list(NETWORKS))
    parser.add_argument("--shares", nargs="+", type=float, help="of the labels (default: all of the plan)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rate", type=float, help="peak learning rate of fine-tuning (default: the best of a few)")
    parser.add_argument("--tune-at", type=float, metavar="SHARE", help="tune the rate there only (default: at each)")
    parser.add_argument("--length", type=float, default=1.0, help="multiple of the plan's epochs of pretraining")
    args = parser.parse_args()
    keep_freed_memory()
    plan = PLANS[args.set].lasting(args.length)
    experiment = Experiment(plan, args.folder)
    results = []
    for share in args.shares or plan.shares:
        for network in args.networks:
            rate = args.rate or experiment.best_rate(network, args.tune_at or share)
            for seed in args.seeds:
                one = experiment.result(network, share, seed, rate, "test")
                results.append(one)
                print(f"{share:.0%} of the labels, {network}, seed {seed}: {one.top1:.2%}", flush=True)
    print(table.markdown(results))
    table.figure(results, args.set, args.folder / "label_efficiency.png")


if __name__ == "__main__":
    main()

"""Trains a recipe, or goes on with a run that was stopped.

    python -m training.train training/recipes/elunet11_cifar100.py --data DIR --out RUN

Started again with the same arguments it goes on from its last checkpoint and ends with
the same bits as if it had not been stopped.
"""

import argparse
import sys

from training.engine import device  # noqa: F401  sets the environment before Keras


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="path of a recipe file")
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument(
        "--holdout", type=int, help="training images to validate on instead"
    )
    parser.add_argument(
        "--precision", choices=["float32", "mixed_bfloat16"], help="default: by device"
    )
    parser.add_argument("--log-every", type=int, default=50, metavar="STEPS")
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    arguments = parser.parse_args(argv)

    from training.engine.loop import train
    from training.engine.recipe import load_recipe

    changes = {
        name: getattr(arguments, name)
        for name in ("seed", "epochs", "holdout")
        if getattr(arguments, name) is not None
    }
    try:
        result = train(
            arguments.recipe,
            load_recipe(arguments.recipe, **changes),
            arguments.data,
            arguments.out,
            precision=arguments.precision,
            log_every=arguments.log_every,
            checkpoint_every=arguments.checkpoint_every,
            progress=not arguments.quiet,
        )
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"training.train: {error}")
    print(
        f"{arguments.out}: error {result['eval_error']:.2%}, loss "
        f"{result['eval_loss']:.4f} after {result['seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()

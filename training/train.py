"""Trains a recipe, or goes on with a run that was stopped.

    python -m training.train training/recipes/elunet11_cifar100.py --data DIR --out RUN

Started again with the same arguments it goes on from its last checkpoint and ends with
the same bits as if it had not been stopped. Exit status 2: starting again is of no use;
75: another worker is gone, or another process at work in RUN; start all again.
"""

import argparse
import dataclasses
import os
import sys

from training.engine import device  # noqa: F401  sets the environment before Keras
from training.engine.strategy import NAMES, find_cluster

UNMENDABLE, START_AGAIN = 2, 75

# Factor of the learning rate for a batch so many times as large.
RATE_SCALING = {
    "none": lambda ratio: 1.0,
    "linear": lambda ratio: ratio,
    "sqrt": lambda ratio: ratio**0.5,
}


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="path of a recipe file")
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--seed", type=natural, help="instead of the recipe's")
    parser.add_argument("--epochs", type=positive, help="instead of the recipe's")
    parser.add_argument(
        "--holdout", type=natural, help="training images to validate on instead"
    )
    parser.add_argument(
        "--strategy", choices=NAMES, help="default: by the devices and the environment"
    )
    parser.add_argument(
        "--on-corrupt",
        choices=["skip", "fail"],
        default="skip",
        help="with training images on disk that cannot be decoded (default: skip)",
    )
    parser.add_argument(
        "--decoder",
        choices=["simplejpeg", "tensorflow"],
        default="simplejpeg",
        help="of images on disk (default: simplejpeg)",
    )
    parser.add_argument(
        "--data-service",
        metavar="ADDRESS",
        help="tf.data service that decodes images on disk, such as grpc://host:5050",
    )
    parser.add_argument(
        "--cpu-devices",
        type=positive,
        metavar="N",
        help="split the processor into N devices, to try a strategy",
    )
    parser.add_argument(
        "--batch-size", type=positive, help="global batch over all devices, instead"
    )
    parser.add_argument(
        "--rate-scaling",
        choices=list(RATE_SCALING),
        default="linear",
        help="of the learning rate with another --batch-size (default: linear)",
    )
    parser.add_argument(
        "--precision", choices=["float32", "mixed_bfloat16"], help="default: by device"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="the recipe in small, for a try in seconds"
    )
    parser.add_argument("--log-every", type=positive, default=50, metavar="STEPS")
    parser.add_argument(
        "--checkpoint-every", type=positive, default=100, metavar="STEPS"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    arguments = parser.parse_args(argv)

    if arguments.cpu_devices:
        device.split_cpu(arguments.cpu_devices)
    from training.engine.checkpoint import find
    from training.engine.loop import train
    from training.engine.provenance import FolderInUse
    from training.engine.recipe import OPTIONS, load_recipe, smoke

    changes = {
        name: getattr(arguments, name)
        for name in OPTIONS
        if getattr(arguments, name) is not None
    }
    try:
        recipe = load_recipe(arguments.recipe)
        if arguments.smoke:
            recipe = smoke(recipe, arguments.batch_size)
        result = train(
            arguments.recipe,
            dataclasses.replace(recipe, **changes),
            arguments.data,
            arguments.out,
            strategy=arguments.strategy,
            rate_factor=rate_factor(recipe, arguments),
            on_corrupt=arguments.on_corrupt,
            decoder=arguments.decoder,
            service=arguments.data_service,
            precision=arguments.precision,
            log_every=arguments.log_every,
            checkpoint_every=arguments.checkpoint_every,
            progress=not arguments.quiet,
        )
    except (ValueError, FileNotFoundError) as error:
        fail(error, UNMENDABLE)
    except OSError as error:
        kept = f". The last checkpoint in {arguments.out} is whole."
        fail(f"{error}{kept if find(arguments.out) else ''}", UNMENDABLE)
    except FolderInUse as error:
        fail(error, START_AGAIN)
    except Exception as error:
        if lost_shard(error):
            fail(f"Expected whole shards in {arguments.data}. {error}", UNMENDABLE)
        if lost_worker(error):
            fail(f"Another worker is gone. Start all again. {error}", START_AGAIN)
        raise
    if result is None:
        return
    print(
        f"{arguments.out}: error {result['eval_error']:.2%}, loss "
        f"{result['eval_loss']:.4f} after {result['seconds']:.0f} s"
    )


def positive(text):
    """An option's integer of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, received {text}")
    return number


def natural(text):
    """An option's integer of 0 or more."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, received {text}")
    return number


def rate_factor(recipe, arguments):
    """Factor for the learning rate that goes with `--batch-size`."""
    ratio = (arguments.batch_size or recipe.batch_size) / recipe.batch_size
    return RATE_SCALING[arguments.rate_scaling](ratio)


def lost_shard(error):
    """Whether TensorFlow says that a file of records is damaged or not there."""
    return type(error).__name__ in ("DataLossError", "NotFoundError")


def lost_worker(error):
    """Whether TensorFlow says that it cannot reach another worker."""
    return find_cluster() is not None and type(error).__name__ in (
        *("UnavailableError", "AbortedError", "CancelledError"),
        *("DeadlineExceededError", "InternalError"),
    )


def fail(error, status):
    """Ends the process at once: TensorFlow's threads may wait for a lost worker."""
    # HDF5's own messages have several lines.
    message = " ".join(str(error).split())
    print(f"training.train: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()

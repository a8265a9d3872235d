"""Shows what a network looks at in an image.

The PNG shows the image, the evidence for a class as a heat map over it, and the most
probable classes.

examples:
  elu-zoo explain camel.png --out camel_explained.png
  elu-zoo explain camel.png --class camel --method grad-cam --out why.png
"""

import argparse
import pathlib

from elu_zoo.cli.common import (
    add_model_argument,
    add_resize_argument,
    check_out_file,
    known_model,
    load_model,
    positive,
    start_backend,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments to its parser."""
    parser.add_argument("image", metavar="IMAGE", help="image to explain")
    parser.add_argument("--out", required=True, metavar="PNG", help="file to write")
    add_model_argument(parser, "--model", default="elunet11.cifar100")
    parser.add_argument(
        "--method",
        default="occlusion",
        metavar="METHOD",
        help="occlusion (default), integrated-gradients or grad-cam",
    )
    parser.add_argument(
        "--class",
        dest="class_name",
        metavar="CLASS",
        help="class to explain (default: the most probable one)",
    )
    add_resize_argument(parser)
    parser.add_argument(
        "--top",
        type=positive,
        default=5,
        metavar="N",
        help="number of classes to show (default: 5)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    name = known_model(arguments.model)
    start_backend()
    from elu_zoo import explain, predictions
    from elu_zoo._names import printable
    from elu_zoo.errors import UserError
    from elu_zoo.files import replacing
    from elu_zoo.images import load_image, preprocessing_of

    explain.check_method(arguments.method)
    check_out_file(pathlib.Path(arguments.out))
    model, class_names = load_model(name)
    how = preprocessing_of(model, arguments.resize)
    image = load_image(arguments.image, model.input_shape[-1], **how)[None]
    (probabilities,) = predictions.probabilities(model.predict_on_batch(image), model)
    number = int(probabilities.argmax())
    if arguments.class_name is not None:
        if arguments.class_name not in class_names:
            raise UserError(
                f"Expected --class to be a class of {name}. "
                f"Received: {arguments.class_name!r}"
            )
        number = list(class_names).index(arguments.class_name)
    heat = explain.heat_map(model, image, [number], arguments.method)[0]
    best = probabilities.argsort()[::-1][: arguments.top]
    answers = [(class_names[i], float(probabilities[i])) for i in best]
    picture = explain.picture(
        image[0], heat, answers, f"{arguments.method}: {class_names[number]}"
    )
    with replacing(pathlib.Path(arguments.out)) as part:
        picture.save(part, format="PNG")
    for answer, probability in answers:
        print(f"  {probability:6.1%}  {printable(answer)}")
    print(f"{arguments.out}: {arguments.method} for {printable(class_names[number])}")

"""Classifies image files.

examples:
  elu-zoo predict camel.png rocket.png
  elu-zoo predict *.jpg --model RUN --top 3 --json
"""

from elu_zoo.cli.common import SOURCE_HELP, load_model, print_json


def add_arguments(parser):
    parser.add_argument("images", nargs="+", help="JPEG or PNG files")
    parser.add_argument("--model", default="elunet11.cifar100", help=SOURCE_HELP)
    parser.add_argument("--resize", type=int, help="side, for models of any image size")
    parser.add_argument("--top", type=int, default=5, help="answers an image")
    parser.add_argument("--json", action="store_true")


def run(arguments):
    import keras
    import numpy as np

    from elu_zoo.images import image_side, read_image
    from elu_zoo.predictions import decode_predictions, gives_logits
    from elu_zoo.records import get_record, list_weights

    model, class_names = load_model(arguments.model)
    side = image_side(model, arguments.resize)
    how = {"resize": side, "crop": side}
    if arguments.model in list_weights():
        how = get_record(arguments.model)["preprocessing"]
    images = [
        read_image(file, **how, channels=model.input_shape[-1])
        for file in arguments.images
    ]
    predictions = model.predict(np.stack(images), verbose=0)
    if gives_logits(model):
        predictions = keras.ops.convert_to_numpy(keras.ops.softmax(predictions))
    answers = decode_predictions(
        predictions, arguments.top, class_names=list(class_names)
    )
    if arguments.json:
        print_json(
            [
                {
                    "file": file,
                    "classes": [{"name": n, "probability": p} for _, n, p in answer],
                }
                for file, answer in zip(arguments.images, answers, strict=True)
            ]
        )
        return
    for file, answer in zip(arguments.images, answers, strict=True):
        print(file)
        for _, name, probability in answer:
            print(f"  {probability:6.1%}  {name}")

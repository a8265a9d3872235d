"""The networks of Clevert et al. (2016) as data, in the paper's own notation.

A stack is a tuple of `(layers, units, receptive field)`; the receptive field of a
fully-connected layer is `FC`. The last stack holds the output layer alone; the model
functions replace its units by `classes`. Sections 4.1 to 4.3 of arXiv 1511.07289.
"""

import dataclasses

FC = "FC"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One row of the paper.

    Attributes:
        stacks: The stacks, input first.
        input_shape: Default `(height, width, channels)`.
        dropout: The paper's dropout rate after the last layer of each stack; for
            fully-connected stacks, after each layer. Missing rates are 0.
    """

    stacks: tuple
    input_shape: tuple
    dropout: tuple = ()

    @property
    def classes(self):
        return self.stacks[-1][-1][1]


ARCHITECTURES = {
    "elunet11": Architecture(
        stacks=(
            ((1, 192, 5),),
            ((1, 192, 1), (1, 240, 3)),
            ((1, 240, 1), (1, 260, 2)),
            ((1, 260, 1), (1, 280, 2)),
            ((1, 280, 1), (1, 300, 2)),
            ((1, 300, 1),),
            ((1, 100, 1),),
        ),
        input_shape=(32, 32, 3),
        dropout=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.0),
    ),
    "elunet18": Architecture(
        stacks=(
            ((1, 384, 3),),
            ((1, 384, 1), (1, 384, 2), (2, 640, 2)),
            ((1, 640, 1), (3, 768, 2)),
            ((1, 768, 1), (2, 896, 2)),
            ((1, 896, 3), (2, 1024, 2)),
            ((1, 1024, 1), (1, 1152, 2)),
            ((1, 1152, 1),),
            ((1, 100, 1),),
        ),
        input_shape=(32, 32, 3),
        dropout=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.0),
    ),
    "elunet15": Architecture(
        stacks=(
            ((1, 96, 6),),
            ((3, 512, 3),),
            ((5, 768, 3),),
            ((3, 1024, 3),),
            ((2, 4096, FC),),
            ((1, 1000, FC),),
        ),
        input_shape=(224, 224, 3),
        dropout=(0.0, 0.0, 0.0, 0.0, 0.5),
    ),
    "mnist_classifier": Architecture(
        stacks=(((8, 128, FC),), ((1, 10, FC),)),
        input_shape=(28, 28, 1),
    ),
    "mnist_autoencoder": Architecture(
        stacks=(
            ((1, 1000, FC), (1, 500, FC), (1, 250, FC), (1, 30, FC)),
            ((1, 250, FC), (1, 500, FC), (1, 1000, FC)),
            ((1, 784, FC),),
        ),
        input_shape=(28, 28, 1),
    ),
}

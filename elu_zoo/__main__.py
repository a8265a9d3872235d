"""`python -m elu_zoo` is the command `elu-zoo`."""

import sys

from elu_zoo.cli import main

sys.exit(main())

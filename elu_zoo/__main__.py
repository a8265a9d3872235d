import sys

from elu_zoo.cli import main

sys.exit(main())

"""python -m fedlab_mm.cli"""

import sys

from fedlab_mm.cli import main

if __name__ == "__main__":
    sys.exit(main())

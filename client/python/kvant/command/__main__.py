"""python -m kvant.command"""

import sys

from kvant.command import main

sys.exit(main())

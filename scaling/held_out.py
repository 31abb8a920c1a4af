"""Stage held_out: trains the run whose loss was predicted.

    python -m scaling.held_out    -> scaling/held_out.json
"""

from scaling.runs import HELD_OUT
from scaling.train import main

if __name__ == "__main__":
    main("held_out", "held_out", HELD_OUT)

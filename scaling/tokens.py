"""Stage tokens: the text of scaling/params.yaml -> scaling/data/tokens.

    python -m scaling.tokens
"""

from ladder.tokens import write_tokens
from pipeline import stage
from scaling.runs import DVC_FILE, TOKENS, shared


def main() -> None:
    with stage("tokens", DVC_FILE, shared) as cfg:
        write_tokens(cfg, TOKENS)


if __name__ == "__main__":
    main()

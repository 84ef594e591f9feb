"""`python -m bench <name> [arguments]`: one measurement by its name; without a name, what there is."""

import importlib
import pkgutil
import sys
from pathlib import Path

NOT_MEASUREMENTS = ("machine", "outer_table", "plain_ray", "ray_nodes", "__main__")


def main() -> int:
    names = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.name not in NOT_MEASUREMENTS)
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        print(f"usage: python -m bench NAME [arguments], NAME one of {', '.join(names)}", file=sys.stderr)
        return 2
    name = sys.argv.pop(1)
    sys.argv[0] = f"bench {name}"
    importlib.import_module(f"bench.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())

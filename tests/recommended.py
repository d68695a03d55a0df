"""Write the costs of the recommended backbones and of NAMEs to add: `python -m tests.recommended`.

It takes a minute.
"""

import json
import sys

from sceneparse.models.backbone_costs import COSTS_FILE, RECOMMENDED, compute_costs

if __name__ == "__main__":
    costs = {name: compute_costs(name) for name in (*RECOMMENDED, *sys.argv[1:])}
    lines = [f"{json.dumps(name)}: {json.dumps(vars(cost))}" for name, cost in costs.items()]
    COSTS_FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

"""Write the costs of the recommended backbones: `python -m tests.recommended` (a minute)."""

from sceneparse.models.backbone_costs import write_costs
from sceneparse.models.recommended import COSTS_FILE, RECOMMENDED, RECOMMENDED_RESNETS

if __name__ == "__main__":
    write_costs(COSTS_FILE, (*RECOMMENDED_RESNETS, *RECOMMENDED))

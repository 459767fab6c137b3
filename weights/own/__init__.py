"""What `own_sprites.py` and `own_collections.py` share, and lesson 16 shows.

A collection of sprites is read (`collection`, `atlas`, `palettes`, `colours`,
`relatives`), a network learns from it (`network`, `training`) and draws (`drawing`),
the best of what it drew are chosen (`choosing`) and put on sheets (`sheets`).
"""

import sys
from pathlib import Path

WEIGHTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(WEIGHTS.parent))  # for diffusion_utilities.py
sys.path.insert(0, str(WEIGHTS / "experiments"))  # for tables.py and training.py

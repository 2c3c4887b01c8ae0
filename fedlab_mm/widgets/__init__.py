"""Things to turn and slide in JupyterLab. Each stores a picture beside it, for where there is no kernel."""

from importlib.util import find_spec

from fedlab_mm.errors import MissingExtra

if find_spec("ipywidgets") is None:
    raise MissingExtra("a widget", "ipywidgets", "notebooks")

from fedlab_mm.widgets.base import Live
from fedlab_mm.widgets.gap import gap_explorer
from fedlab_mm.widgets.noise import noise_slider
from fedlab_mm.widgets.player import player
from fedlab_mm.widgets.users import explore_user

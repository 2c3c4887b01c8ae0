"""What an upload gives away, to a server that does as it was told and thinks about what it sees.

The papers' case for privacy is that interactions stay on the device. What leaves it is made from them, though: a client
uploads the rows of the items that it trained on, its own and the negatives that it drew. Two things tell one from the
other. A negative is drawn anew each round, an own item comes again; and under any loss the two pull their rows in
opposite directions along the client's own predictor, so that a client's rows lie along one line, own items on one side
of it. Which side that is, `orient` tells by what the draws do to either.

The attacks here know the recipe, the model, the broadcast values and the titles, and of each upload how many samples it
was made from; they do not know a client's private parameters.
With secure aggregation the server sees a round's sum only, and compares the rounds that a client was in with those it
was not. Where a method has clients show their prediction functions (GFMFR), no sum hides those: the server scores all
items under a client's function as that client would.
"""

from fedlab_mm.attacks.ledger import Ledger, row_changes
from fedlab_mm.attacks.lines import Line, moved, orient, place_on_line
from fedlab_mm.attacks.report import Scene, report
from fedlab_mm.registry import import_members

import_members(__name__, __path__)

__all__ = ["Ledger", "Line", "Scene", "moved", "orient", "place_on_line", "report", "row_changes"]

"""Where the clients' private state lives: preallocated, a row a client; item tables as the rows that were touched.

Everything here grows with the number of clients, so it comes from a `Storage`, which turns to files mapped into memory
once its budget is spent, and says beforehand if there is no room at all.
"""

import errno
import math
import mmap
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
import torch
from safetensors import safe_open
from torch import Tensor

from fedlab_mm.errors import FedlabError

VARIABLE = "FEDLAB_MM_MEMORY_GB"
LARGE = 1e9  # bytes
BLOCK = 1 << 22  # bytes written at a time


def device_of(name: str) -> torch.device:
    """The torch device of that name.

    Raises:
        FedlabError: there is no such device on this machine.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
        reason = str(error).splitlines()[0]
        raise FedlabError(f"device '{name}' is not there ({reason}); there are: {', '.join(there)}") from None
    return device


class Storage:
    """Memory for what grows with the clients: on the device up to a budget, in mapped files beyond it.

    Args:
        device: where tensors live. Files are mapped on the CPU only.
        budget: bytes; by default $FEDLAB_MM_MEMORY_GB or 60 % of the memory that is free now; on a GPU 80 % of its own.
    """

    def __init__(self, device: torch.device, budget: int | None = None):
        self.device = device
        self.budget = free_memory(device) if budget is None else budget
        self.taken = 0
        self.mapped: set[int] = set()  # addresses of what is in files

    def room(self) -> tuple[int, int]:
        """Bytes left: in memory, and on the disk of temporary files, half of which are ours to take."""
        disk = 0 if self.device.type != "cpu" else psutil.disk_usage(tempfile.gettempdir()).free // 2
        return self.budget - self.taken, disk

    def foresee(self, needs: Mapping[str, int], what_to_do: str) -> None:
        """Check that there is room for what will be asked for, before anything is.

        Args:
            needs: what for -> bytes.

        Raises:
            FedlabError: there is not; it lists the needs and says `what_to_do`.
        """
        memory, disk = self.room()
        needed = sum(needs.values())
        if needed > memory + disk:
            listed = ", ".join(f"{gigabytes(n)} for {name}" for name, n in needs.items())
            place = f"{gigabytes(memory)} of memory" + (f" and {gigabytes(disk)} of disk" if disk else "")
            raise FedlabError(f"this federation needs {listed}, and {self.device} has {place} for it: {what_to_do}")
        if needed > memory:
            warnings.warn(
                f"the clients' state takes {gigabytes(needed)}, more than the {gigabytes(memory)} that {VARIABLE} or "
                f"the free memory allows: what is beyond is kept in files under {tempfile.gettempdir()}, and slower",
                stacklevel=4,
            )

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor with any content."""
        size = math.prod(shape)
        n_bytes = size * dtype.itemsize
        if self.device.type != "cpu" or n_bytes <= self.budget - self.taken or not n_bytes:
            self.taken += n_bytes
            return torch.empty(shape, dtype=dtype, device=self.device)
        try:
            # Its name goes at once, or, on Windows, when the last mapping does. The mapping is Python's, because
            # torch.from_file opens a file by its name, which Windows refuses for one that goes when it is closed.
            with tempfile.TemporaryFile(prefix="fedlab_mm-") as file:
                reserve(file, n_bytes)
                mapping = mmap.mmap(file.fileno(), n_bytes)
        except OSError as error:
            raise FedlabError(
                f"{tempfile.gettempdir()} has no room for {gigabytes(n_bytes)} of state ({error.strerror})"
            ) from None
        tensor = torch.frombuffer(mapping, dtype=dtype).view(shape)  # and holds the mapping for as long as it lives
        self.mapped.add(tensor.data_ptr())
        return tensor

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy on the CPU; a large one in a mapped file, so that snapshots of a state never fill the memory."""
        if tensor.numel() * tensor.dtype.itemsize < LARGE:
            return tensor.detach().cpu().clone()
        return Storage(torch.device("cpu"), budget=0).empty(tuple(tensor.shape), tensor.dtype).copy_(tensor.detach())

    def release(self, tensor: Tensor) -> None:
        """A tensor from here is given up."""
        if tensor.data_ptr() in self.mapped:
            self.mapped.remove(tensor.data_ptr())
        else:
            self.taken -= tensor.numel() * tensor.dtype.itemsize

    def rows(self, row: Tensor, n: int) -> Tensor:
        """n copies of a row, [n, …]."""
        return self.empty((n, *row.shape), row.dtype).copy_(row.detach().expand(n, *row.shape))


def reserve(file: IO[bytes], n_bytes: int) -> None:
    """Give a new file its size and its place on the disk: a mapped page that finds no room later would end the process.

    Raises:
        OSError: there is no room.
    """
    fallocate = getattr(os, "posix_fallocate", None)  # not everywhere: macOS and Windows have none
    if fallocate is not None:
        try:
            fallocate(file.fileno(), 0, n_bytes)
        except OSError as error:
            # How a file system says that it cannot differs from system to system; what it lacks, zeros will show.
            if error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)):
                raise
        if os.fstat(file.fileno()).st_size >= n_bytes:  # some take the place, and leave the size as it was
            return
    zeros = memoryview(bytes(min(BLOCK, n_bytes)))
    for start in range(0, n_bytes, BLOCK):
        file.write(zeros[: n_bytes - start])
    file.flush()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, apart from it.

    Those of safetensors' `load_file` map the file for as long as they live, and Windows neither replaces nor removes a
    file that is mapped: a run that was loaded could not be saved to its place again.
    """
    storage = Storage(torch.device("cpu"), budget=0)
    with safe_open(path, framework="pt") as file:
        return {name: storage.copy(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118


def free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(0.8 * torch.cuda.mem_get_info(device)[0])
    if given := os.environ.get(VARIABLE, "").strip():
        try:
            wanted = float(given) * 1e9
        except ValueError:
            wanted = math.nan
        if not 0 <= wanted < math.inf:
            raise FedlabError(f"{VARIABLE}={given}: must be a number of gigabytes, 0 or more (for no limit, unset it)")
        return int(wanted)
    return int(0.6 * psutil.virtual_memory().available)


def gigabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:,.1f} GB"


@dataclass
class RankOne:
    """New values of a matrix parameter of some clients, as a change: W ← scale · W − movedᵀ read.

    This is all that SGD does within a round to a layer whose input stands still, so the matrices are written once.
    """

    scale: float
    moved_CH: Tensor
    read_CK: Tensor

    def apply(self, weight_CHK: Tensor) -> Tensor:
        """In place."""
        return weight_CHK.mul_(self.scale).addcmul_(self.moved_CH[:, :, None], self.read_CK[:, None], value=-1)

    def bound_C(self) -> Tensor:
        """An upper bound of the change's entries, client by client: finite where the new values are."""
        return self.moved_CH.abs().amax(dim=1) * self.read_CK.abs().amax(dim=1)


class PersonalRows:
    """Every client's private item table [I, W], kept as the rows that it has touched; the others are the common initial
    ones.

    `slot_UI` says where a row is kept: slot − 1 in `pool`, 0 where it was never touched.
    """

    def __init__(self, initial_IW: Tensor, n_users: int, storage: Storage):
        self.initial_IW, self.storage = initial_IW.detach().clone(), storage
        self.slot_UI = storage.rows(torch.zeros(len(initial_IW), dtype=torch.int32, device=storage.device), n_users)
        self.pool = storage.empty((0, initial_IW.shape[1]), initial_IW.dtype)
        self.n_rows = 0

    def read(self, users: Tensor, items: Tensor) -> Tensor:
        """The rows of (user, item) pairs: two tensors of one shape […] in, […, W] out."""
        slots = self.slot_UI[users, items].long()
        rows = self.initial_IW[items]
        kept = slots > 0
        rows[kept] = self.pool[slots[kept] - 1]
        return rows

    def write(self, users_P: Tensor, items_P: Tensor, rows_PW: Tensor) -> None:
        """Replace the rows of pairs, each given once."""
        slots_P = self.slot_UI[users_P, items_P].long()
        new = (slots_P == 0).nonzero()[:, 0]
        slots_P[new] = self.n_rows + 1 + torch.arange(len(new), device=slots_P.device)
        self.reserve(len(new))
        self.n_rows += len(new)
        self.slot_UI[users_P[new], items_P[new]] = slots_P[new].int()
        self.pool[slots_P - 1] = rows_PW

    def touched(self, users: slice | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The rows that some users keep: number of the user within the slice, item, slot in `pool`; in that order."""
        c_P, i_P = self.slot_UI[users].nonzero(as_tuple=True)
        return c_P, i_P, self.slot_UI[users][c_P, i_P].long() - 1

    def dense(self, users: slice | Tensor, n_items: int | None = None) -> Tensor:
        """Whole tables [C, I, W]; zero rows are added for items beyond the catalogue."""
        c_P, i_P, slot_P = self.touched(users)
        n_users = len(self.slot_UI[users])
        beyond = (n_items or len(self.initial_IW)) - len(self.initial_IW)
        initial = torch.nn.functional.pad(self.initial_IW, (0, 0, 0, beyond))
        tables = initial.expand(n_users, *initial.shape).clone()
        tables[c_P, i_P] = self.pool[slot_P]
        return tables

    def state(self) -> dict[str, Tensor]:
        """user · I + item of each kept row, ascending, and the rows."""
        c_P, i_P, slot_P = self.touched(slice(None))
        return {"pairs": c_P * len(self.initial_IW) + i_P, "rows": self.pool[slot_P]}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.slot_UI.zero_()
        self.n_rows = 0
        pairs = state["pairs"].to(self.slot_UI.device)
        n_items = len(self.initial_IW)
        self.write(pairs // n_items, pairs % n_items, state["rows"].to(self.pool))

    def reserve(self, n_more: int) -> None:
        """Make room for so many more rows.

        Raises:
            FedlabError: there is none.
        """
        n_rows = self.n_rows + n_more
        if n_rows > len(self.pool):
            pool = self.storage.empty((max(n_rows, 3 * len(self.pool) // 2), self.pool.shape[1]), self.pool.dtype)
            pool[: self.n_rows] = self.pool[: self.n_rows]
            self.storage.release(self.pool)
            self.pool = pool

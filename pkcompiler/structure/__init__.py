"""Which units of a network can only be removed together, derived from its path graph (docs/channels.md)."""

from pkcompiler.structure.coupling import Coupling, channel_groups, coupling
from pkcompiler.structure.groups import Excluded, Group, Layer, Member
from pkcompiler.structure.removal import Left, group_scores, kept_of, masks_of, removal_order, select_groups

__all__ = [
    "Coupling",
    "Excluded",
    "Group",
    "Layer",
    "Left",
    "Member",
    "channel_groups",
    "coupling",
    "group_scores",
    "kept_of",
    "masks_of",
    "removal_order",
    "select_groups",
]

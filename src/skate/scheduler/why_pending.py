"""Why work cannot be placed, in sentences for people.

The global scheduler asks when an offer finds no node now, or never will. Each sentence says what is
wanted and what the cluster has instead, so that the reader sees what to change: the demand, the
rules, or the cluster.
"""

from __future__ import annotations

from collections.abc import Sequence

from skate.messages import Offer
from skate.scheduler.group_names import parse_name
from skate.scheduler.label_rules import meets, rules_text
from skate.scheduler.node_view import NodeView
from skate.spec import Demand, Strategy, amount_text, resources_of


def demand_text(demand: Demand) -> str:
    """A demand in words: "CPU 4 and GPU 0.5"."""
    return " and ".join(
        f"{name} {amount_text(name, amount)}" for name, amount in resources_of(demand).items()
    )


def why_rules_unmet(offer: Offer, strategy: Strategy, nodes: Sequence[NodeView]) -> str:
    """Why a node has to join for these rules to be met; "" if some node could hold the tasks."""
    able = [view for view in nodes if view.can_hold(offer.demand)]
    wanted = [strategy.rules, *strategy.fallbacks]
    if not able or any(meets(view.labels, rules) for view in able for rules in wanted):
        return ""
    text = f"infeasible: no node {', nor '.join(rules_text(rules) for rules in wanted)}"
    if any(meets(view.labels, rules) for view in nodes for rules in wanted):
        text += f" has {demand_text(offer.demand)}"
    return text


def why_pending(offer: Offer, strategy: Strategy, nodes: Sequence[NodeView], home_id: bytes) -> str:
    """Why none of the living nodes can take any of the offered tasks; their rules can be met."""
    able = [view for view in nodes if view.can_hold(offer.demand)]
    if not able:
        return "infeasible: " + _lacking(offer.demand, nodes)
    if any(view.node_id != home_id for view in able):
        return (
            f"node {home_id.hex()} cannot reach the nodes that could run it"
            if offer.avoid
            else f"no node but {home_id.hex()}, which cannot run it now, meets its rules"
        )
    return f"infeasible: no node but {home_id.hex()}, which cannot run it now, could hold it"


def why_no_room(offer: Offer, nodes: Sequence[NodeView]) -> str:
    """Why an actor waits though nodes could hold it."""
    which = "the node" if len(nodes) == 1 else f"all {len(nodes)} nodes"
    return (
        f"waits for free resources: {which} that could hold {demand_text(offer.demand)} cannot now"
    )


def why_never(offer: Offer, strategy: Strategy, view: NodeView | None) -> str:
    """Why a task or actor that is bound to this node can never run there; "" if it can."""
    what = "the actor" if offer.is_actor else "the task"
    bound = f"{what} may run on node {strategy.node_id.hex()} only (hard node affinity)"
    if view is None:
        return f"{bound}, and that node is dead or was never part of this cluster"
    if not view.can_hold(offer.demand):
        return f"{bound}, and {_lacking(offer.demand, [view], 'that node')}"
    if not meets(view.labels, strategy.rules):
        return f"{bound}, and that is no node {rules_text(strategy.rules)}"
    return ""


def _lacking(demand: Demand, nodes: Sequence[NodeView], one: str = "") -> str:
    # ``one`` names the node in the sentence if only one is asked about.
    if not nodes:
        return "there is no node"
    lacks = f"{one} does not have" if one else "no node has"
    for name, units in demand:
        most = max(view.total.get(name, 0) for view in nodes)
        if most >= units:
            continue
        group = parse_name(name)
        if group is not None:
            which = "a bundle" if group[2] < 0 else f"bundle {group[2]}"
            return (
                f"{lacks} {which} of placement group {group[1].hex()}"
                f" with {demand_text(((group[0], units),))}: the group is not ready yet, has been"
                " removed, or its bundles are too small"
            )
        there = amount_text(name, resources_of({name: most})[name])
        return (
            f"{lacks} {demand_text(((name, units),))}"
            f" ({'it has' if one else 'the most that one has is'} {there})"
        )
    return f"no single node has {demand_text(demand)} together"

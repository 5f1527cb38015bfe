"""The site's graphs: of all services, of a service's tables, of a table's columns."""

from __future__ import annotations

from collections.abc import Sequence

from pgsplit.observe.docs.facts import Column, Facts, Way
from pgsplit.observe.docs.graph import Column as Boxes
from pgsplit.observe.docs.graph import Drawing, Edge, Node, draw
from pgsplit.observe.docs.places import monolith_href, service_href, table_href, tone
from pgsplit.observe.pages import slug
from pgsplit.project.project import Service

BACK = "back in the monolith"


def of_services(facts: Facts) -> Drawing:
    """Draw the monolith, the services, and what services share with each other."""
    project = facts.project
    name = project.name
    nodes, edges = [], []
    for service in project.services.values():
        database = service.database
        count = len(facts.tables(service))
        note = f"{facts.state(service)}, {count} table{'' if count == 1 else 's'}"
        tint = tone(facts, database)
        title = f"{database}: {service.holds}"
        nodes.append(Node(database, database, service_href(database), tint, note, title))
        owned = ", ".join(service.owned_tables) or "nothing"
        edges.append(Edge(name, database, f"{database} gets {owned}", tint))
        for other in project.services:
            shared = [
                table
                for table in service.owned_tables
                if other != database and project.tables[table].shared.get(other)
            ]
            if shared:
                said = f"{database} shares columns of {', '.join(shared)} with {other}"
                edges.append(Edge(database, other, said, tint))
    whole = Node(name, name, "#monolith", 0, f"{len(project.tables)} tables", "the monolith")
    return draw([Boxes("monolith", [whole]), Boxes("services", nodes, False)], edges, 210, 46)


def of_service(facts: Facts, service: Service, root: str) -> Drawing:
    """Draw a service's tables: in the monolith, in the mirror, its own, and back."""
    database, project = service.database, facts.project
    landed = service.landed_tables
    monolith, mirror, own, back, edges = [], [], [], [], []
    for name, columns in landed.items():
        owner = project.tables[name].owner
        tint, href = tone(facts, owner), root + monolith_href(name)
        monolith.append(Node(f"m:{name}", name, href, tint, "", f"{project.name}.{name}"))
        title = f"{name} in the mirror: {', '.join(columns)}"
        mirror.append(Node(f"i:{name}", name, href, tint, "", title))
        edges.append(Edge(f"m:{name}", f"i:{name}", f"{len(columns)} columns of {name}", tint))
    for model in facts.tables(service):
        key, tint = f"t:{model.table}", tone(facts, database)
        href = root + table_href(database, model.table)
        own.append(Node(key, model.table, href, tint, "", model.description))
        for schema, name in sorted(model.lineage.tables) if model.lineage else ():
            if (schema, name) not in {(service.mirror, one) for one in landed}:
                continue  # a view of the service's own tables
            said = f"{model.path} reads {name}"
            edges.append(Edge(f"i:{name}", key, said, tone(facts, project.tables[name].owner)))
    known = {(model.schema, model.table) for model in facts.tables(service)}
    for model in facts.reverse(service):
        key, tint = f"b:{model.table}", tone(facts, database)
        href = root + monolith_href(model.table)
        back.append(Node(key, model.table, href, tint, "", model.description))
        for _, name in sorted(model.lineage.tables & known) if model.lineage else ():
            edges.append(Edge(f"t:{name}", key, f"{model.path} reads {name}", tint))
    columns_of_boxes = [
        Boxes("monolith", monolith, False),
        Boxes(f"mirror: schema {service.mirror}", mirror, False),
        Boxes(f"tables of {database}", own),
        Boxes(BACK, back),
    ]
    return draw(columns_of_boxes, edges, 220, 30)


def of_columns(
    facts: Facts, columns: Sequence[Column], table: tuple[str, str], root: str
) -> Drawing:
    """Draw a table's columns, where they come from and where they go.

    Args:
        facts: what is known.
        columns: the table's.
        table: its service and its name; no service for the monolith's.
        root: the way to the site's front page.
    """
    service, name = table
    left: dict[str, Node] = {}
    middle, right = [], dict[str, Node]()
    edges = []
    for one in columns:
        key = f"c:{one.name}"
        tint = tone(facts, service or facts.project.tables[name].owner)
        middle.append(Node(key, one.name, f"#column-{slug(one.name)}", tint, "", one.description))
        for way in one.origins if service else one.returns:
            node = _monolith(facts, way, root) if service else _own(facts, way, root, "o")
            left[node.key] = node
            if way.how in ("value", "choice"):
                said = f"{node.text} → {one.name}" + (f": {way.said}" if way.said else "")
                edges.append(Edge(node.key, key, said, node.tone, way.how == "choice"))
        for way in one.returns if service else one.origins:
            node = _monolith(facts, way, root) if service else _own(facts, way, root, "g")
            node = Node(f"r{node.key}", node.text, node.href, node.tone, "", node.title)
            right[node.key] = node
            if way.how in ("value", "choice"):
                said = f"{one.name} → {node.text}"
                edges.append(Edge(key, node.key, said, node.tone, way.how == "choice"))
    titles = ("monolith, and its mirror", f"{service}.{name}", BACK)
    if not service:
        titles = ("comes back from", f"monolith: {name}", "goes to")
    used = {one.start for one in edges} | {one.end for one in edges}
    sides = [[node for node in side.values() if node.key in used] for side in (left, right)]
    boxes = [
        Boxes(titles[0], _grouped(sides[0], middle, edges), False),
        Boxes(titles[1], middle, False),
        Boxes(titles[2], sides[1]),
    ]
    return draw(boxes, edges, 280, 24)


def _grouped(nodes: list[Node], middle: list[Node], edges: list[Edge]) -> list[Node]:
    """Sort boxes on the left by the boxes that they lead to."""
    place = {node.key: number for number, node in enumerate(middle)}
    leads: dict[str, list[int]] = {}
    for edge in edges:
        if edge.end in place:
            leads.setdefault(edge.start, []).append(place[edge.end])
    return sorted(nodes, key=lambda node: sum(leads[node.key]) / len(leads[node.key]))


def _monolith(facts: Facts, way: Way, root: str) -> Node:
    text = f"{way.monolith_table}.{way.monolith_column}"
    href = root + monolith_href(way.monolith_table, way.monolith_column)
    owner = facts.project.tables[way.monolith_table].owner
    return Node(f"m:{text}", text, href, tone(facts, owner), "", way.said)


def _own(facts: Facts, way: Way, root: str, kind: str) -> Node:
    text = f"{facts.project.short(way.service)}: {way.table}.{way.column}"
    href = root + table_href(way.service, way.table, way.column)
    key = f"{kind}:{way.service}.{way.table}.{way.column}"
    return Node(key, text, href, tone(facts, way.service), "", way.said)

"""Strongly connected components of a directed graph, in linear time and without recursion. Pure."""

from collections.abc import Iterator

Graph = list[list[int]]
"""Node -> the nodes that its edges lead to."""


def components(graph: Graph) -> Iterator[list[int]]:
    """List the strongly connected components, each after all those that it leads to (Kosaraju's algorithm)."""
    is_new = [True] * len(graph)
    for start in reversed(_postorder(_reversed(graph))):
        component = [start] if is_new[start] else []
        is_new[start] = False
        for node in component:  # grows meanwhile
            for target in graph[node]:
                if is_new[target]:
                    is_new[target] = False
                    component.append(target)
        if component:
            yield component


def _reversed(graph: Graph) -> Graph:
    found: Graph = [[] for _ in graph]
    for node, targets in enumerate(graph):
        for target in targets:
            found[target].append(node)
    return found


def _postorder(graph: Graph) -> list[int]:
    """List the nodes by the end of their visit in a depth-first search."""
    is_new = [True] * len(graph)
    found: list[int] = []
    for start in range(len(graph)):
        path = [(start, iter(graph[start]))] if is_new[start] else []
        is_new[start] = False
        while path:
            node, targets = path[-1]
            target = next((each for each in targets if is_new[each]), None)
            if target is None:
                found.append(node)
                path.pop()
            else:
                is_new[target] = False
                path.append((target, iter(graph[target])))
    return found

"""What else than the score the search was asked to look at, and which trials trade it best."""

from analysis.figure import BLUE, GREEN
from analysis.front import members, study_front
from analysis.material import Material
from analysis.page import Section, figure, joined, paragraph, table


def pareto(material: Material) -> Section:
    front = study_front(material.about, material.records)
    first, *others = front.objectives
    text = paragraph(
        f"The search followed {first}; {', '.join(others)} span the front. Of {len(front.trials)} full-length trials "
        f"{int(front.best.sum())} are beaten by no other one in all of them; the {front.others} others are not compared."
    )
    if not front.trials:
        return Section("pareto", "Pareto front", text)
    rows = [[name, *values] for name, values in members(front)]
    parts = [text, table(["trial", *front.objectives], rows, "On the front, the best of the first objective first.")]
    for place, name in enumerate(others, start=1):
        traces = [
            {
                "type": "scatter",
                "mode": "markers",
                "name": label,
                "x": front.values[chosen, place].tolist(),
                "y": front.values[chosen, 0].tolist(),
                "text": [front.trials[row] for row in chosen.nonzero()[0]],
                "marker": {"color": color, "size": 8},
            }
            for label, chosen, color in (("beaten", ~front.best, BLUE), ("on the front", front.best, GREEN))
        ]
        layout = {"xaxis": {"title": {"text": name}}, "yaxis": {"title": {"text": first}}}
        parts.append(figure(f"{first} against {name}", traces, layout, "Full-length trials; what no other trial beats is on the front."))
    return Section("pareto", "Pareto front", joined(*parts))

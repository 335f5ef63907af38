"""The explorer's widgets: imported where plotly, anywidget and ipywidgets are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anywidget  # noqa: F401 - plotly asks for it only when the first figure is made
import numpy as np
import plotly.graph_objects as go
from ipywidgets import HTML, Checkbox, HBox, Layout, SelectionSlider, ToggleButtons, VBox
from traitlets import Unicode

from photonic_ffzero.plots import class_colour

if TYPE_CHECKING:
    from photonic_ffzero.explorer import Explorer

_INK = "#808080"  # can be read on white and on black
_SIDE = 520  # pixels of the picture


class Picture(go.FigureWidget):
    """Plotly's widget, on which a slow browser does not give up.

    anywidget drops all messages to a widget whose module is not ready within two seconds, and
    Plotly's has 5 MB. The module here is ready at once, and loads Plotly's afterwards.
    """

    _bundle = Unicode(str(go.FigureWidget._esm)).tag(sync=True)
    _esm = """
        async function load(model) {
            const file = new Blob([model.get("_bundle")], { type: "text/javascript" });
            const address = URL.createObjectURL(file);
            const { default: create } = await import(address);
            URL.revokeObjectURL(address);
            const widget = create();
            await widget.initialize({ model });
            return widget;
        }
        export default () => {
            let widget;
            return {
                initialize({ model }) { widget = load(model); },
                async render(view) { return (await widget).render(view); },
            };
        };
    """


def build(explorer: Explorer) -> Any:
    """Sliders and switches above the picture, and what is under the pointer beside it."""
    view = View(explorer)
    sliders, switches = HBox([view.mesh, view.epoch]), HBox([view.projection, view.errors])
    return VBox([sliders, switches, HBox([view.figure, view.details])])


class View:
    """Controls and figure, which follow one another."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.names = explorer.names
        self.mesh = _slider(explorer.model.config.layer_name, explorer.meshes)
        self.epoch = _slider("epoch", explorer.epochs(explorer.meshes[-1]))
        self.projection = ToggleButtons(options=list(explorer.projections))
        self.projection.style.button_width = "70px"
        self.errors = Checkbox(value=False, description="errors alone", indent=False)
        self.details = HTML("point at an image", layout=Layout(width="190px", margin="60px 0 0 0"))
        self.figure = _figure()
        self.update()
        self.figure = Picture(self.figure)
        self.figure.data[0].on_hover(self._point)
        self.figure.data[1].on_hover(self._point)
        self.mesh.observe(self._new_mesh, "value")
        for control in (self.epoch, self.projection, self.errors):
            control.observe(lambda change: self.update(), "value")

    def _new_mesh(self, change: Any) -> None:
        options, epoch = self.explorer.epochs(change.new), self.epoch.value
        if options == list(self.epoch.options):
            self.update()
            return
        with self.epoch.hold_trait_notifications():
            self.epoch.options = options
            self.epoch.value = epoch if epoch in options else options[-1]
            self.epoch.disabled = len(options) == 1
        self.update()

    def _point(self, trace: Any, points: Any, state: Any) -> None:
        if points.point_inds:
            self.show(int(trace.customdata[points.point_inds[0]]))

    def show(self, index: int) -> None:
        """Show an image and its goodness."""
        from photonic_ffzero.explorer import details

        state = self.explorer.state(self.mesh.value, self.epoch.value)
        self.details.value = details(state, index, self.names)

    def update(self) -> None:
        """Draw what the controls ask for."""
        mesh, epoch, projection = self.mesh.value, self.epoch.value, self.projection.value
        state = self.explorer.state(mesh, epoch)
        points, prototypes = self.explorer.plane(mesh, epoch, projection)
        wrong = state.predicted != state.labels
        right = np.zeros_like(wrong) if self.errors.value else ~wrong
        figure, end = self.figure, self.explorer.limit(projection)
        with figure.batch_update():
            for trace, chosen in zip(figure.data, (right, wrong), strict=False):
                trace.x, trace.y = points[chosen].T.astype(float)
                trace.marker.color = [class_colour(label) for label in state.labels[chosen]]
                trace.customdata = np.flatnonzero(chosen)
                pairs = zip(state.labels[chosen], state.predicted[chosen], strict=True)
                trace.text = [self._words(*pair) for pair in pairs]
            x, y = prototypes.T.astype(float) if len(prototypes) else ([], [])
            figure.data[2].x, figure.data[2].y = x, y
            figure.data[2].text = self.names[: len(prototypes)]
            classes = range(len(prototypes))
            figure.data[2].marker.line.color = [class_colour(label) for label in classes]
            figure.update_xaxes(range=[-end, end])
            figure.update_yaxes(range=[-end, end])
            figure.layout.title.text = self.explorer.title(mesh, epoch)

    def _words(self, true: int, predicted: int) -> str:
        if true == predicted:
            return self.names[true]
        return f"{self.names[true]}, taken for {self.names[predicted] if predicted >= 0 else '?'}"


def _slider(label: str, options: Any) -> Any:
    slider = SelectionSlider(options=options, value=options[-1], description=label)
    slider.continuous_update = True
    slider.disabled = len(options) == 1
    return slider


def _figure() -> Any:
    figure = go.Figure()
    hover = {"hovertemplate": "%{text}<extra></extra>"}
    figure.add_scatter(mode="markers", name="right", marker={"size": 6, "opacity": 0.75}, **hover)
    cross = {"size": 11, "symbol": "x", "line": {"width": 1, "color": _INK}}
    figure.add_scatter(mode="markers", name="wrong", marker=cross, **hover)
    circle = {"size": 26, "color": "rgba(255,255,255,0.75)", "line": {"width": 3}}
    figure.add_scatter(
        mode="markers+text",
        name="prototype",
        marker=circle,
        textfont={"color": "black", "size": 13},
        hoverinfo="skip",
    )
    axis = {"showticklabels": False, "zeroline": False, "gridcolor": "rgba(128,128,128,0.25)"}
    figure.update_layout(
        width=_SIDE,
        height=_SIDE + 60,
        margin={"l": 10, "r": 10, "t": 40, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": _INK},
        title={"font": {"size": 13}},
        legend={"orientation": "h", "y": -0.04},
        modebar={"orientation": "v", "bgcolor": "rgba(0,0,0,0)"},  # not over the title
        hovermode="closest",
        xaxis=axis,
        yaxis=axis,
    )
    return figure

"""Styles of the notebook views: JupyterLab's colours if available, otherwise colours that fit the browser's theme."""

from __future__ import annotations

from typing import Final

STALE: Final = 20
"""Seconds without an update after which a panel says so."""

STYLE: Final = """<style>
.llmtunnel {
  container-type: inline-size; width: 100%;
  --lt-good: var(--jp-success-color1, #1a7f37);
  --lt-wait: var(--jp-warn-color1, #9a6700);
  --lt-bad: var(--jp-error-color1, #cf222e);
  --lt-blue: var(--jp-brand-color1, #1976d2);
  --lt-line: var(--jp-border-color2, rgba(128, 128, 128, .35));
  --lt-code: var(--jp-code-font-family, ui-monospace, Menlo, Consolas, monospace);
  max-width: 860px; box-sizing: border-box; overflow: hidden;
  font: 13px/1.5 var(--jp-ui-font-family, system-ui, sans-serif);
  color: var(--jp-ui-font-color1, inherit);
}
@media (prefers-color-scheme: dark) {
  .llmtunnel {
    --lt-good: var(--jp-success-color1, #3fb950);
    --lt-wait: var(--jp-warn-color1, #d29922);
    --lt-bad: var(--jp-error-color1, #f85149);
    --lt-blue: var(--jp-brand-color1, #64b5f6);
  }
}
.llmtunnel.lt-panel {
  border: 1px solid var(--lt-line); border-radius: 6px; padding: 10px 14px 12px; position: relative;
}
.llmtunnel.jupyter-widgets-disconnected::before { content: none; }
.llmtunnel .lt-pulse, .llmtunnel .lt-pulse .widget-html-content { position: static; overflow: visible; height: 0; }
.llmtunnel .lt-stale {
  position: absolute; inset: 0; z-index: 1; pointer-events: none; visibility: hidden;
  animation: lt-stale 1s @STALE@s forwards;
}
.llmtunnel.jupyter-widgets-disconnected .lt-stale { animation: none; visibility: visible; }
.llmtunnel .lt-stale::before {
  content: ""; position: absolute; inset: 0; border-radius: 6px;
  background: var(--jp-layout-color0, Canvas); opacity: .6;
}
.llmtunnel .lt-stale div {
  position: absolute; inset: 8px 10px auto; padding: 4px 10px; border: 1px solid var(--lt-wait); border-radius: 4px;
  background: var(--jp-layout-color1, Canvas);
}
@keyframes lt-stale { to { visibility: visible; } }
.llmtunnel .widget-html-content { font: inherit; line-height: 1.5; min-width: 0; overflow: hidden; }
.llmtunnel .widget-html, .llmtunnel .widget-button { margin: 0; }
.llmtunnel .lt-row { gap: 8px; align-items: flex-start; overflow: visible; }
.llmtunnel .lt-wrap { flex-wrap: wrap; }
.llmtunnel .lt-wrap button { margin-top: 4px; }
.llmtunnel .lt-grow { flex: 1 1 0; min-width: 0; }
.llmtunnel .lt-part { margin-top: 10px; overflow: visible; }
.llmtunnel .lt-part:empty { display: none; }
.llmtunnel.llmtunnel code { font: 12px var(--lt-code); background: none; padding: 0; color: inherit; }
.llmtunnel .lt-muted { opacity: .72; }
.llmtunnel .lt-good { color: var(--lt-good); }
.llmtunnel .lt-wait { color: var(--lt-wait); }
.llmtunnel .lt-bad { color: var(--lt-bad); }
.llmtunnel .lt-state { overflow-wrap: anywhere; }
.llmtunnel .lt-state b { font-weight: 600; margin-right: 4px; }
.llmtunnel button { height: 26px; line-height: 24px; padding: 0 10px; width: auto; font-size: 12px; }
.llmtunnel button:focus-visible, .llmtunnel input:focus-visible {
  outline: 2px solid var(--lt-blue); outline-offset: 1px;
}
.llmtunnel .lt-traffic { display: flex; gap: 24px; }
.llmtunnel .lt-traffic > div { flex: 1 1 0; min-width: 0; }
.llmtunnel .lt-spark { display: block; width: 100%; height: 24px; border-bottom: 1px solid var(--lt-line); }
.llmtunnel .lt-spark path {
  fill: var(--lt-blue); fill-opacity: .25; stroke: var(--lt-blue); vector-effect: non-scaling-stroke;
}
.llmtunnel table { width: 100%; border-collapse: collapse; font-size: 12px; margin: 0; table-layout: auto; }
.llmtunnel.llmtunnel :is(th, td) { text-align: left; }
.llmtunnel th, .llmtunnel td {
  padding: 2px 5px; white-space: nowrap; border: 0; max-width: 9em;
  overflow: hidden; text-overflow: ellipsis; font-variant-numeric: tabular-nums;
}
.llmtunnel th {
  font-weight: 500; opacity: .72; border-bottom: 1px solid var(--lt-line); white-space: normal; vertical-align: bottom;
}
.llmtunnel th:first-child, .llmtunnel td:first-child { padding-left: 0; }
.llmtunnel th:last-child, .llmtunnel td:last-child { padding-right: 0; }
.llmtunnel.llmtunnel .lt-number { text-align: right; }
.llmtunnel.llmtunnel tbody tr { background: none; }
.llmtunnel .lt-requests .lt-model { padding-left: 14px; }
.llmtunnel .lt-requests .lt-path { width: 40%; max-width: 0; }
.llmtunnel .lt-scroll { max-height: 300px; overflow: auto; }
.llmtunnel .lt-field { display: flex; align-items: center; gap: 8px; margin-bottom: 4px; }
.llmtunnel .lt-field span { flex: 0 0 72px; opacity: .72; }
.llmtunnel .lt-field :is(input, textarea) {
  flex: 1 1 0; min-width: 0; box-sizing: border-box; padding: 0 8px; font: 12px var(--lt-code);
  color: inherit; background: transparent; border: 1px solid var(--lt-line); border-radius: 3px;
}
.llmtunnel .lt-field input { height: 26px; }
.llmtunnel .lt-field textarea {
  resize: none; white-space: pre; overflow-x: auto; line-height: 1.5; padding-block: 3px; scrollbar-width: thin;
}
.llmtunnel .lt-field button {
  flex: 0 0 auto; color: inherit; background: transparent; border: 1px solid var(--lt-line); border-radius: 3px;
  cursor: pointer;
}
.llmtunnel tr.lt-progress td { white-space: normal; max-width: none; padding-left: 14px; }
.llmtunnel progress { width: 120px; height: 8px; accent-color: var(--lt-blue); vertical-align: baseline; }
.llmtunnel tr[data-id] { cursor: pointer; }
.llmtunnel tr[data-id]:hover { background: var(--jp-layout-color2, rgba(128, 128, 128, .15)); }
.llmtunnel button.lt-open {
  all: unset; cursor: pointer; font: inherit; color: inherit;
  text-decoration: underline dotted; text-underline-offset: 3px;
}
.llmtunnel button.lt-open:focus-visible { outline: 2px solid var(--lt-blue); }
.llmtunnel tr.lt-details { display: none; }
.llmtunnel tr.lt-details td { white-space: normal; overflow-wrap: anywhere; max-width: none; padding: 4px 0 8px 14px; }
.llmtunnel.llmtunnel dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 12px; margin: 0; padding: 0; }
.llmtunnel.llmtunnel :is(dt, dd) { float: none; width: auto; margin: 0; padding: 0; font-weight: normal; }
.llmtunnel dt { opacity: .72; white-space: nowrap; }
.llmtunnel .lt-hint { margin: 6px 0 2px; }
.llmtunnel summary { cursor: pointer; margin-bottom: 4px; }
.llmtunnel tr.lt-why td {
  white-space: normal; overflow-wrap: anywhere; max-width: none; color: var(--lt-bad); padding-left: 14px;
}
.llmtunnel.lt-saved .lt-good, .llmtunnel.lt-saved .lt-wait { color: inherit; }
.llmtunnel.lt-saved .lt-note { border-left: 3px solid var(--lt-wait); padding-left: 8px; margin-bottom: 6px; }
@container (max-width: 660px) {
  .llmtunnel .lt-requests :is(.lt-first_byte, .lt-token_rate, .lt-model) { display: none; }
  .llmtunnel :is(td, th):is(.lt-peer, .lt-path) { white-space: normal; overflow-wrap: anywhere; max-width: none; }
  .llmtunnel .lt-peers .lt-requests { white-space: normal; }
  .llmtunnel .lt-peers .lt-peer { min-width: 7em; }
  .llmtunnel .lt-peers .lt-path { min-width: 4em; }
  .llmtunnel .lt-traffic { gap: 12px; }
}
@container (max-width: 420px) {
  .llmtunnel .lt-head { flex-wrap: wrap; }
  .llmtunnel .lt-head .lt-grow { flex-basis: 100%; }
  .llmtunnel .lt-traffic { flex-direction: column; gap: 4px; }
  .llmtunnel :is(th, td) { padding-inline: 3px; }
  .llmtunnel .lt-requests .lt-tokens, .llmtunnel .lt-peers :is(.lt-since, .lt-up, .lt-down) { display: none; }
  .llmtunnel .lt-field { flex-wrap: wrap; gap: 0 8px; }
  .llmtunnel .lt-field span { flex-basis: 100%; }
}
.llmtunnel img.lt-picture { width: auto; max-width: 200px; height: auto; margin-left: 80px; align-self: flex-start; }
</style>""".replace("@STALE@", str(STALE))


def saved_or_live(panel: str) -> str:
    """Return the rules that show either a panel (by its model's id) or its saved picture: see `saved`."""
    picture, live = f".lt-saved.lt-{panel}", f".lt-panel.lt-{panel}"
    gone = ".jupyter-widgets-disconnected"
    return (
        f"<style>body:has({live}:not({gone})) {picture}, body:has({picture}) {live}{gone} {{ display: none; }}</style>"
    )


NO_ERROR: Final = """<style>
.jp-OutputArea-child:has(.lt-saved) + .jp-OutputArea-child > .jp-OutputArea-output:not([data-mime-type], :has(> *)),
.output_area:has(.lt-saved) + .output_area > .jupyter-widgets-view:not(:has(> *)) { display: none; }
</style>"""
"""Hides what JupyterLab, Notebook 7 and the classic notebook show instead of a panel that they do not find."""

"""One HTML page that holds a whole report: images and styles inside, no scripts, nothing from a network."""
import base64
import html

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 Georgia, 'Times New Roman', serif; color: #1a1a1a; background: #fff; margin: 0 auto;
       max-width: 62rem; padding: 1rem 1.2rem 4rem; overflow-wrap: break-word; }
h1, h2, h3, th, nav, .mock, .missing { font-family: 'Helvetica Neue', Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.6rem 0 0.3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 0.6rem; border-bottom: 2px solid #1a1a1a; padding-bottom: 0.2rem; }
h3 { font-size: 1rem; margin: 1.8rem 0 0.4rem; }
nav ul { padding-left: 1.1rem; margin: 0.4rem 0; columns: 2; column-gap: 2rem; }
nav li { break-inside: avoid; }
nav a { color: #0b4f8a; }
.mock { background: #fbe9dd; border-left: 4px solid #d55e00; padding: 0.5rem 0.8rem; margin: 0.8rem 0; }
.tag { color: #a84300; font-weight: bold; }
figure { margin: 0 0 1.2rem; }
.wide { overflow-x: auto; }
.wide img { display: block; width: 100%; min-width: 34rem; height: auto; }
figcaption, .caption { font-size: 0.95rem; margin: 0.4rem 0; }
pre, code { font: 0.8rem/1.4 'DejaVu Sans Mono', Consolas, monospace; }
code.command { display: block; background: #f3f3f1; padding: 0.35rem 0.6rem; overflow-wrap: anywhere; }
pre { background: #f3f3f1; padding: 0.6rem; overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 0.5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.55rem; text-align: right; vertical-align: top; border-bottom: 1px solid #ddd; }
th { font-size: 0.75rem; border-bottom: 1.5px solid #1a1a1a; vertical-align: bottom; }
th.text, td.text { text-align: left; }
.narrow { display: none; }
@media (max-width: 40rem) { .narrow { display: block; font-size: 0.85rem; }
  body { font-size: 15px; padding: 0.6rem 0.7rem 3rem; } nav ul { columns: 1; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; }
  h2, h3 { break-after: avoid; }
  figure, tr { break-inside: avoid; } .wide { overflow: visible; }
  pre { white-space: pre-wrap; } .wide img { min-width: 0; } nav { display: none; }
  code.command { background: none; padding: 0; } table { font-size: 7.5pt; } }
"""


NARROW = '<p class="narrow">On a narrow screen figures and tables scroll sideways inside of their frames.</p>'


def escape(text):
    return html.escape(str(text))


def image(png, alt):
    """An <img> with the PNG inside."""
    data = base64.b64encode(png).decode("ascii")
    return f'<div class="wide"><img alt="{escape(alt)}" src="data:image/png;base64,{data}"></div>'


def table(listing, most=60):
    """A Listing as an HTML table; units and meanings stand in the header."""
    numeric = [c.dtype[0] != "S" for c in listing.table.columns]
    head = "".join(
        f'<th{"" if n else " class=text"} title="{escape(c.description)}">{escape(c.name.replace("_", " "))}'
        f'{f"<br>({escape(c.unit)})" if c.unit else ""}</th>'
        for c, n in zip(listing.table.columns, numeric, strict=True))
    body = "".join(
        "<tr>" + "".join(f'<td{"" if n else " class=text"}>{escape(cell)}</td>'
                         for cell, n in zip(row, numeric, strict=True)) + "</tr>\n"
        for row in listing.cells()[:most])
    more = f"<p class=caption>The first {most} of {len(listing.rows)} rows; all are in the file.</p>" \
        if len(listing.rows) > most else ""
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>{more}'


class Page:
    """A page that grows section by section; `text` gives the whole of it."""

    def __init__(self, title, generator, mock):
        self.title, self.generator, self.mock = title, generator, mock
        self.parts, self.contents = [], []

    def section(self, title):
        anchor = "".join(c if c.isalnum() else "-" for c in title.lower())
        self.contents.append((anchor, title))
        self.parts.append(f'<h2 id="{anchor}">{escape(title)}</h2>')

    def add(self, markup):
        self.parts.append(markup)

    def text(self):
        links = "".join(f'<li><a href="#{a}">{escape(t)}</a></li>' for a, t in self.contents)
        note = ('<p class="mock"><b>Mock data.</b> At least one input was simulated by cc-mock: its stars, spectra and '
                "labels are made up, and what it shows is what the generator put in. Figures and tables made from it "
                "say so.</p>") if self.mock else ""
        return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
                f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
                f'<meta name="generator" content="{escape(self.generator)}">\n<title>{escape(self.title)}</title>\n'
                f"<style>{STYLE}</style></head>\n<body>\n<h1>{escape(self.title)}</h1>\n{note}"
                f"{NARROW}<nav><ul>{links}</ul></nav>\n"
                + "\n".join(self.parts) + "\n</body></html>\n")

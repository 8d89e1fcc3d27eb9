"""What a model may answer to a page that shows it: markup, scripts, controls, endless words.

What ran of it would set the page's title, or `window.canary`, or ask `HostileServer` for a file.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CANARY = "document.title='owned';window.canary=1"
_MARKUP = {
    "script": f"<script>{CANARY}</script>",
    "script_from_afar": '<script src="SERVER/evil.js"></script>',
    "image": f'<img src=x onerror="{CANARY}">',
    "image_from_afar": "<img src=SERVER/pixel.png>",
    "svg": f'<svg onload="{CANARY}"><script>{CANARY}</script></svg>',
    "link": f'<a href="javascript:{CANARY}" autofocus onfocus="{CANARY}">here</a>',
    "pre_end": f'</pre></article><iframe srcdoc="<script>parent.{CANARY}</script>"></iframe>',
    "style_end": f"</style><script>{CANARY}</script><style>*{{display:none}}",
    "script_end": f"</script><script>{CANARY}</script>",
    "attribute_end": f'" onmouseover="{CANARY}" autofocus onfocus="{CANARY}" x="',
    "single_quotes": f"' onmouseover='{CANARY}' autofocus onfocus='{CANARY}' x='",
    "comment": f"--><!--><script>{CANARY}</script>",
    "cdata": f"]]><script>{CANARY}</script>",
    "entities": f"&lt;script&gt;{CANARY}&lt;/script&gt; &#60;b&#62; &quot;",
    "template": "{{ 7 * 7 }} {% raw %} {{ cycler.__init__.__globals__.os }} ${7*7} #{7*7}",
    "base": '<base href="SERVER/"><meta http-equiv="refresh" content="0;url=SERVER/gone">',
    "css": "}</style>@import 'SERVER/a.css'; *{background:url(SERVER/b.png)}",
    "markdown": f"![x](SERVER/c.png) [y](javascript:{CANARY}) `<script>{CANARY}</script>`",
    "dialogs": "<script>alert(1);confirm(2);prompt(3)</script>",
    "bidi": "abc \u202e<script>evil</script>\u202c \u2066isolated\u2069 \u200f עברית العربية",
    "controls": "nul \x00 bell \x07 escape \x1b[31m line\u2028sep next\u0085 lone \ud800 end",
    "huge": "W" * 5000,
    "huge_lines": "\n".join(f"line {number}" for number in range(400)),
    "zalgo": "z\u0300\u0301\u0302\u0303\u0304\u0305" * 200,
    "empty": "",
}


class HostileServer:
    """A server that nobody should ask for anything; it remembers who did."""

    def __init__(self, port: int, asked: list[str]) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.asked = asked

    def answers(self) -> dict[str, str]:
        """The hostile answers by name; their addresses are this server's."""
        return {name: text.replace("SERVER", self.address) for name, text in _MARKUP.items()}


@contextmanager
def hostile_server() -> Iterator[HostileServer]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield HostileServer(server.server_address[1], asked)
    finally:
        server.shutdown()
        server.server_close()

"""A headless Chromium that opens a page as a reader does and answers a question about it."""

import json
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
PATIENCE = 120  # seconds until a browser that says nothing is given up
LISTEN = """<script>
window.problems = [];
addEventListener("error", event => problems.push(String(event.message)));
addEventListener("unhandledrejection", event => problems.push(String(event.reason)));
addEventListener("securitypolicyviolation", event => problems.push("blocked " + event.blockedURI + " by " + event.violatedDirective));
for (const kind of ["error", "warn"]) { const old = console[kind]; console[kind] = (...said) => { problems.push(said.join(" ")); old(...said); }; }
</script>"""
ANSWER = """<script>
(async () => {
  while (document.documentElement.dataset.ready !== "yes") await new Promise(requestAnimationFrame);
  const opened = performance.now();
  let answer = null;
  try { answer = await (async () => { %s })(); } catch (error) { problems.push(String(error)); }
  await fetch("%s", {method: "POST", mode: "no-cors", body: JSON.stringify({answer, problems, opened})});
})();
</script>"""


def ask(page: Path, question: str, folder: Path) -> dict[str, Any]:
    """{"answer": what the JavaScript `question` returns once all figures are drawn, "problems": errors and warnings, "opened": ms}.

    The page is opened from a copy in `folder`, which may talk to this process and to nothing else.
    """
    assert CHROMIUM is not None
    heard: list[bytes] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        server.timeout = PATIENCE
        address = f"http://127.0.0.1:{server.server_port}/"
        text = page.read_text().replace("default-src 'none';", f"default-src 'none'; connect-src {address};", 1)
        copy = folder / "asked.html"
        copy.write_text(text.replace("<style>", LISTEN + "<style>", 1).replace("</body>", ANSWER % (question, address) + "</body>"))
        command = [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder / 'profile'}",
            "--remote-debugging-port=0",
        ]
        browser = subprocess.Popen([*command, copy.as_uri()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            server.handle_request()
        finally:
            browser.terminate()
            browser.wait()
    assert heard, f"{copy}: the browser did not answer"
    return json.loads(heard[0])

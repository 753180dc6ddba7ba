"""The status page, asked for, and read as a browser would."""

from __future__ import annotations

from html.parser import HTMLParser
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = {name.lower(): value for name, value in headers}
        self.body = body
        self.text = body.decode()


def of_wsgi(app, query="", method="GET"):
    environ = {"QUERY_STRING": query, "REQUEST_METHOD": method}
    setup_testing_defaults(environ)
    started = []
    # which complains of whatever the standard does not allow
    body = validator(app)(environ, lambda *given: started.append(given))
    content = b"".join(body)
    body.close()
    [(status, headers)] = started
    return Answer(int(status.split()[0]), headers, content)


class Page(HTMLParser):
    """What a browser would see: its elements, and each table's cells."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.rows = []
        self.words = []
        self._inside = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag != "meta":
            self._inside.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self._inside.pop() == tag

    def handle_data(self, data):
        tag = self._inside[-1] if self._inside else ""
        if tag in ("td", "th"):
            self.rows[-1].append(data)
        elif tag != "style":
            self.words.append(data)

"""The console: the plane's pages for people. It shows what the store holds, and changes it by functions of the plane.

Pages are whole without JavaScript: links filter and sort, forms post and lead on. htmx refreshes parts of them, and
server-sent events bring verdicts as they fall. Nothing is loaded from elsewhere, and no page carries a script or style
of its own. It decides nothing: who may do what stands in `people`, what a change means in `policies`, `approve` ...
"""

from exeat.plane.web.application import application

__all__ = ["application"]

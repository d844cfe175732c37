"""Pages for people, served by every node: what is live where, what is on its way, and buttons that do what `ccs` does.

Picture a window into one node: each page is made of that node's applied state and of what it heard from edges, and says at
which position that was and whether it is known to be current. One module per page turns state into frozen values, templates
turn those into HTML, and nothing here decides or changes anything: a button is a call of the REST API like anybody's.
"""

from consistency_service.api.dashboard.routes import add_dashboard

__all__ = ["add_dashboard"]

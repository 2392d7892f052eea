"""sign_in.py ORIGIN COUNT KEPT OUT: sign COUNT users in as browsers do, and write a `Cookie:` line for each to OUT.

Cookies of an earlier run, in KEPT, are used again where the gateway still takes the first and the last of them; not so pairs of tokens,
which asking turns."""
import html
import http.client
import os
import re
import ssl
import sys
import time
import urllib.parse

origin, count, kept, out = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
host = urllib.parse.urlsplit(origin).netloc
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
LOGIN = "/.portcullis/login"
OWN = ("__Host-portcullis=", "__Host-portcullis-access", "__Host-portcullis-refresh")


def connection():
    """A connection, as soon as the gateway listens."""
    until = time.time() + 60
    while True:
        try:
            opened = http.client.HTTPSConnection(host, context=context, timeout=20)
            opened.connect()
            return opened
        except OSError:
            if time.time() > until:
                raise
            time.sleep(0.01)


def ask(wire, method, path, body=None, cookies=""):
    headers = {"Host": "localhost", "Accept": "text/html"}
    headers.update({"Cookie": cookies} if cookies else {})
    headers.update({"Content-Type": "application/x-www-form-urlencoded"} if body else {})
    wire.request(method, path, body, headers)
    answer = wire.getresponse()
    text = answer.read().decode("latin-1")
    return answer.status, [line.split(";")[0] for line in answer.headers.get_all("Set-Cookie") or []], text


def signed_in(wire, name):
    _, cookies, page = ask(wire, "GET", LOGIN)
    state = html.unescape(re.search(r'name="state" value="([^"]*)"', page)[1])
    form = urllib.parse.urlencode({"user": name, "password": "rig password for everybody", "state": state})
    status, cookies, page = ask(wire, "POST", LOGIN, form, "; ".join(cookies))
    session = [cookie for cookie in cookies if cookie.startswith(OWN) and not cookie.endswith("=")]
    assert status == 303 and session, (name, status, page)
    return "Cookie: " + "; ".join(session)


wire = connection()
lines = open(kept).read().splitlines() if os.path.exists(kept) else []
alive = lambda line: ask(wire, "GET", "/1k", cookies=line.split(": ", 1)[1])[0] == 200
if len(lines) != count or "; " in lines[0] or not (alive(lines[0]) and alive(lines[-1])):
    lines = [signed_in(wire, f"user{number:05}") for number in range(count)]
    with open(kept, "w") as file:
        file.write("\n".join(lines) + "\n")
with open(out + ".new", "w") as file:
    file.write("\n".join(lines) + "\n")
os.rename(out + ".new", out)

"""users.py FILE COUNT: give the one user of a user file COUNT - 1 namesakes, user00001 and so on, with the same password hash."""
import re
import sys

path, count = sys.argv[1], int(sys.argv[2])
text = open(path).read()
head, one = re.search(r"(\[user\.\"?user00000\"?\])\n(.*?)(?=\n\[|\Z)", text, re.S).groups()
with open(path, "w") as file:
    for number in range(count):
        file.write(f"[user.user{number:05}]\n{one.strip()}\n\n")

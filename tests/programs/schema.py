"""`schema.py SCHEMA`: TOML texts as a JSON list on standard input; for each, a line: what the schema has against it, or `fine`."""
import json, sys, tomllib
from jsonschema import Draft202012Validator

schema = json.load(open(sys.argv[1]))
Draft202012Validator.check_schema(schema)
for text in json.load(sys.stdin):
    errors = [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in Draft202012Validator(schema).iter_errors(tomllib.loads(text))]
    print(json.dumps(" | ".join(errors) or "fine"))

"""What programs in Python do with tokens. `make FOLDER`: a key and a token for each algorithm, `ALG TOKEN` a line, the public key
as FOLDER/ALG.pem or the secret as FOLDER/HS256.secret. `verify JWKS ISSUER AUDIENCE`: a token of standard input, its claims out."""
import json, secrets, sys, time
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa


def make(folder):
    rsa_key = rsa.generate_private_key(65537, 2048)
    keys = {alg: rsa_key for alg in ("RS256", "RS384", "RS512", "PS256")}
    keys |= {"ES256": ec.generate_private_key(ec.SECP256R1()), "ES384": ec.generate_private_key(ec.SECP384R1())}
    keys |= {"EdDSA": ed25519.Ed25519PrivateKey.generate(), "HS256": secrets.token_urlsafe(32)}
    now = int(time.time())
    for alg, key in keys.items():
        claims = {"iss": f"https://{alg}.example", "aud": ["gateway"], "sub": f"py-{alg}", "iat": now, "exp": now + 300}
        print(alg, jwt.encode(claims, key, algorithm=alg))
        if alg == "HS256":
            open(f"{folder}/{alg}.secret", "w").write(key)
        else:
            pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            open(f"{folder}/{alg}.pem", "wb").write(pem)


def verify(jwks, issuer, audience):
    token = sys.stdin.read().strip()
    keys = jwt.PyJWKSet.from_dict(json.load(open(jwks)))
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, algorithms=["ES256", "EdDSA"], issuer=issuer, audience=audience,
                        options={"require": ["exp", "iat", "iss", "aud", "sub"]})
    print(json.dumps(claims))


{"make": make, "verify": verify}[sys.argv[1]](*sys.argv[2:])

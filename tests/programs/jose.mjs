// What programs in JavaScript do with tokens. `make FOLDER`: keys and a token for each algorithm, `ALG TOKEN` a line, the set as
// FOLDER/jose.json. `verify JWKS ISSUER AUDIENCE`: a token of standard input, its claims out.
import { readFileSync, writeFileSync } from 'node:fs'
import { createLocalJWKSet, exportJWK, generateKeyPair, jwtVerify, SignJWT } from 'jose'

const [, what, ...rest] = process.argv
if (what === 'make') {
  const keys = []
  for (const alg of ['ES256', 'ES384', 'EdDSA', 'RS256', 'PS256']) {
    const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true })
    keys.push({ ...(await exportJWK(publicKey)), kid: `jose-${alg}`, alg, use: 'sig' })
    const token = await new SignJWT({ realm: { roles: ['eng-admins'] } })
      .setProtectedHeader({ alg, kid: `jose-${alg}`, typ: 'at+jwt' })
      .setIssuer('https://jose.example').setAudience('gateway').setSubject(`js-${alg}`)
      .setIssuedAt().setNotBefore('0s').setExpirationTime('5m').setJti(`id-${alg}`).sign(privateKey)
    console.log(alg, token)
  }
  writeFileSync(`${rest[0]}/jose.json`, JSON.stringify({ keys }))
} else {
  const [jwks, issuer, audience] = rest
  const keys = createLocalJWKSet(JSON.parse(readFileSync(jwks)))
  const { payload } = await jwtVerify(readFileSync(0, 'utf8').trim(), keys, { issuer, audience, requiredClaims: ['sub', 'exp'] })
  console.log(JSON.stringify(payload))
}

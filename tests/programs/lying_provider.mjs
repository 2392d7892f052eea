// An OpenID provider that says what it is told to say, for tests. A line of JSON on its standard input is the next lie, `null` the
// last one again; it answers each with a line of what it saw. Where FOLDER holds server.pem, server.key and ca.pem it speaks TLS and
// asks for a certificate.
// A code is the nonce of its attempt: there is nothing to remember.
//
//   node lying_provider.mjs FOLDER

import { existsSync, readFileSync } from 'node:fs';
import { createServer as createPlain } from 'node:http';
import { createServer as createSecure } from 'node:https';
import { join } from 'node:path';
import { createHash, generateKeyPairSync, sign } from 'node:crypto';
import { createInterface } from 'node:readline';

const file = (name) => join(process.argv[2], name);
const secure = existsSync(file('server.pem'));
const own = generateKeyPairSync('rsa', { modulusLength: 2048 });
const other = generateKeyPairSync('rsa', { modulusLength: 2048 });
let lie = {};
let seen = {};
// How often each path was asked for.
const asked = {};
// Who waits for the next lie.
const waiting = [];

const issuer = () => `${secure ? 'https' : 'http'}://localhost:${server.address().port}`;
const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

// Changes to what is true; `null` takes something out, a number where a time stands is seconds from now.
function changed(truth, changes = {}) {
  const now = Math.floor(Date.now() / 1000);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) delete truth[name];
    else if (['iat', 'exp', 'nbf', 'auth_time'].includes(name) && typeof value === 'number') truth[name] = now + value;
    else truth[name] = value;
  }
  return truth;
}

function idToken(nonce, access) {
  const now = Math.floor(Date.now() / 1000);
  const { header, key, ...payload } = lie.id ?? {};
  const hash = createHash('sha256').update(access).digest().subarray(0, 16).toString('base64url');
  const head = changed({ alg: 'RS256', kid: 'one' }, header);
  const claims = changed({
    iss: issuer(), aud: 'portcullis', sub: 'alice', iat: now, exp: now + 300, auth_time: now, nonce, at_hash: hash,
    name: 'Alice', email: 'alice@corp.example', email_verified: true, groups: ['eng'],
  }, payload);
  const text = `${part(head)}.${part(claims)}`;
  const signer = key === 'other' ? other.privateKey : own.privateKey;
  return `${text}.${head.alg === 'none' ? '' : sign('sha256', Buffer.from(text), signer).toString('base64url')}`;
}

async function read(request) {
  let text = '';
  for await (const piece of request) text += piece;
  return text;
}

function answers(path, body) {
  switch (path) {
    case '/.well-known/openid-configuration':
      return changed({
        issuer: issuer(),
        authorization_endpoint: `${issuer()}/authorize`,
        token_endpoint: `${issuer()}/token`,
        userinfo_endpoint: `${issuer()}/userinfo`,
        jwks_uri: `${issuer()}/jwks`,
        token_endpoint_auth_methods_supported: ['client_secret_basic'],
        id_token_signing_alg_values_supported: ['RS256'],
        scopes_supported: ['openid'],
      }, lie.discovery);
    case '/jwks':
      return {
        keys: (lie.keys ?? [{ key: 'own', kid: 'one' }]).map(({ key, kid }) => {
          const pair = key === 'other' ? other : own;
          return { ...pair.publicKey.export({ format: 'jwk' }), kid, use: 'sig', alg: 'RS256' };
        }),
      };
    case '/token': {
      const access = 'an access token';
      const token = lie.id === null ? undefined : idToken(new URLSearchParams(body).get('code'), access);
      return changed({ access_token: access, token_type: 'Bearer', expires_in: 300, id_token: token }, lie.token);
    }
    case '/userinfo':
      return changed({ sub: 'alice', groups: ['eng-admins'] }, lie.userinfo);
    default:
      return undefined;
  }
}

const handler = async (request, response) => {
  const path = request.url.split('?')[0];
  asked[path] = (asked[path] ?? 0) + 1;
  const body = await read(request);
  if (path === '/token') {
    seen = { authorization: request.headers.authorization, body, certificate: request.socket.getPeerCertificate?.().subject };
  }
  const wrong = lie.wrong?.[path];
  if (wrong?.delay) await new Promise((done) => { setTimeout(done, wrong.delay); });
  if (wrong?.held) await new Promise((done) => { waiting.push(done); });
  if (wrong?.redirect) {
    response.writeHead(302, { location: wrong.redirect });
    return response.end();
  }
  response.writeHead(wrong?.status ?? 200, { 'content-type': wrong?.type ?? 'application/json' });
  response.end(wrong?.text ?? JSON.stringify(answers(path, body) ?? {}));
};
const server = secure
  ? createSecure({
    cert: readFileSync(file('server.pem')), key: readFileSync(file('server.key')), ca: readFileSync(file('ca.pem')),
    requestCert: true, rejectUnauthorized: true,
  }, handler)
  : createPlain(handler);
server.listen(0, 'localhost');
server.on('listening', () => {
  createInterface({ input: process.stdin }).on('line', (line) => {
    lie = JSON.parse(line) ?? lie;
    if (!lie.still) waiting.splice(0).forEach((done) => done());
    console.log(JSON.stringify({ port: server.address().port, seen: { ...seen, asked } }));
  }).on('close', () => process.exit(0));
});

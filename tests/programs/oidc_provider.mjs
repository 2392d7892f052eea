// The certified OpenID provider of npm, for tests. Its port is chosen first and told, because clients register with addresses that
// nobody knows yet: what is posted to /test/configure makes the provider. Keys are kept in a folder, so that it can be killed and
// started again.
//
//   node oidc_provider.mjs FOLDER [PORT]

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { createPrivateKey, generateKeyPairSync, sign } from 'node:crypto';

const [folder, port] = [process.argv[2], Number(process.argv[3] ?? 0)];
const modules = new URL('../../target/tools/node/node_modules/', import.meta.url);
const { Provider, interactionPolicy } = await import(new URL('oidc-provider/lib/index.js', modules));

function keys() {
  const file = join(folder, 'keys.json');
  if (!existsSync(file)) {
    const jwk = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });
    writeFileSync(file, JSON.stringify({ keys: [{ ...jwk, use: 'sig', alg: 'RS256', kid: 'one' }] }));
  }
  return JSON.parse(readFileSync(file, 'utf8'));
}

let accounts = {};
let provider;
// What the test is told of what was asked here.
const seen = { all: 0, asked: 0, token: 0, refresh: 0, userinfo: 0 };

// Whoever was not signed in as strongly as is asked for signs in again.
function policy() {
  const { Check, base } = interactionPolicy;
  const wanted = base();
  wanted.get('login').checks.add(new Check('acr_wanted', 'a stronger sign-in is asked for', (ctx) => {
    const acr = ctx.oidc.params.acr_values?.split(' ');
    return acr && !acr.includes(ctx.oidc.session.acr) ? Check.REQUEST_PROMPT : Check.NO_NEED_TO_PROMPT;
  }));
  return wanted;
}

function make(issuer, wanted) {
  accounts = wanted.accounts;
  const made = new Provider(issuer, {
    clients: wanted.clients,
    jwks: keys(),
    cookies: { keys: ['test'] },
    acrValues: ['gold', 'silver'],
    claims: {
      openid: ['sub'],
      profile: ['name', 'preferred_username', 'groups'],
      email: ['email', 'email_verified'],
      acr: null, auth_time: null, sid: null, iss: null,
    },
    conformIdTokenClaims: wanted.lean ?? true,
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...accounts[id] }) }),
    features: {
      devInteractions: { enabled: false },
      backchannelLogout: { enabled: true },
      rpInitiatedLogout: {
        enabled: true,
        logoutSource(ctx, form) {
          ctx.body = `<!doctype html><title>Sign out</title><h1>Sign out of the provider?</h1>${form}
            <button id="yes" type="submit" form="op.logoutForm" value="yes" name="logout">Yes</button>`;
        },
      },
      ...wanted.features,
    },
    ttl: { AccessToken: wanted.access_seconds ?? 3600, IdToken: 600, Session: 3600, Grant: 3600, RefreshToken: 3600, Interaction: 600 },
    rotateRefreshToken: true,
    issueRefreshToken: async (_, client) => client.grantTypeAllowed('refresh_token'),
    // Everybody consents to everything.
    async loadExistingGrant(ctx) {
      const grant = new ctx.oidc.provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
      grant.addOIDCScope('openid profile email offline_access');
      await grant.save();
      return grant;
    },
    interactions: { policy: policy(), url: (_, interaction) => `/interaction/${interaction.uid}` },
    // It asks no address of this machine unless the guard that it brings along is left out.
    fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none'],
  });
  made.on('grant.success', (ctx) => {
    seen.token += 1;
    if (ctx.oidc.params.grant_type === 'refresh_token') seen.refresh += 1;
  });
  return made;
}

// A token as this provider would sign it, whatever it says.
function signed({ header, payload, key }) {
  const part = (value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'RS256', kid: 'one', ...header })}.${part(payload)}`;
  const own = createPrivateKey({ key: keys().keys[0], format: 'jwk' });
  const other = () => generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;
  return `${text}.${sign('sha256', Buffer.from(text), key === 'other' ? other() : own).toString('base64url')}`;
}

async function read(request) {
  let text = '';
  for await (const piece of request) text += piece;
  return text;
}

// One page: who are you?
async function interaction(request, response) {
  if (request.method === 'GET') {
    response.setHeader('content-type', 'text/html');
    return response.end(`<!doctype html><title>Provider</title><h1>Sign in to the provider</h1><form method="post">
      <input id="login" name="login"><button id="go">Sign in</button>
      <button id="no" name="refuse" value="1">Refuse</button></form>`);
  }
  const form = new URLSearchParams(await read(request));
  const details = await provider.interactionDetails(request, response);
  const asked = details.params.acr_values?.split(' ')[0];
  const login = { accountId: form.get('login'), acr: asked ?? 'silver', remember: true };
  const result = form.get('refuse')
    ? { error: 'access_denied', error_description: 'refused' }
    : { login };
  return provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
}

const server = createServer(async (request, response) => {
  try {
    const path = request.url.split('?')[0];
    if (path === '/test/configure') {
      provider = make(`http://127.0.0.1:${server.address().port}${request.headers['x-path'] ?? ''}`, JSON.parse(await read(request)));
      return response.end('configured\n');
    }
    if (path === '/test/accounts') {
      accounts = JSON.parse(await read(request));
      return response.end('changed\n');
    }
    if (path === '/test/sign') return response.end(signed(JSON.parse(await read(request))));
    if (path === '/test/seen') return response.end(JSON.stringify(seen));
    seen.all += 1;
    if (path === '/token') seen.asked += 1;
    if (!provider) {
      response.statusCode = 503;
      return response.end('not configured\n');
    }
    if (path.startsWith('/interaction/')) return await interaction(request, response);
    return provider.callback()(request, response);
  } catch (error) {
    console.error(error);
    response.statusCode = 500;
    return response.end('failed\n');
  }
});
server.listen(port, '127.0.0.1', () => console.log(`provider on port ${server.address().port}`));

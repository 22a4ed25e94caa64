import { Hono } from 'hono';
import { describe, expect, it } from 'vitest';
import { guard, requireToken } from './access.ts';

const TOKEN = '0123456789abcdef0123';

function get(token: string | null, url: string, headers: Readonly<Record<string, string>> = {}) {
  const app = new Hono();
  app.use(guard(() => token));
  app.get('/', (context) => context.text('in'));
  return app.request(url, { headers });
}

describe('the address of --http', () => {
  it('needs a token where others can connect', () => {
    expect(() => requireToken({ host: '0.0.0.0', port: 80 }, null)).toThrow('--http-token-file');
    requireToken({ host: '0.0.0.0', port: 80 }, TOKEN);
    requireToken({ host: '127.0.0.2', port: 80 }, null);
  });
});

describe('on a loopback address without a token', () => {
  it.each(['http://127.0.0.1:9009/', 'http://localhost:9009/', 'http://[::1]:9009/'])('%s is answered', async (url) => {
    expect((await get(null, url)).status).toBe(200);
  });

  it('a page of another site gets nothing', async () => {
    expect((await get(null, 'http://rebound.example/')).status).toBe(403);
  });
});

describe('with a token', () => {
  const url = 'http://192.0.2.1:9009/';

  it('nobody comes in without it', async () => {
    expect((await get(TOKEN, url)).status).toBe(401);
    expect((await get(TOKEN, url, { authorization: 'Bearer wrong' })).status).toBe(401);
    expect((await get(TOKEN, `${url}?token=wrong`)).status).toBe(401);
  });

  it('a program sends it as a header', async () => {
    expect((await get(TOKEN, url, { authorization: `Bearer ${TOKEN}` })).status).toBe(200);
  });

  it('a browser gives it once, and keeps a cookie', async () => {
    const answer = await get(TOKEN, `${url}?token=${TOKEN}`);
    expect(answer.status).toBe(302);
    expect(answer.headers.get('location')).toBe('/');
    const cookie = answer.headers.get('set-cookie') ?? '';
    expect(cookie).toMatch(/HttpOnly.*SameSite=Strict/);
    expect((await get(TOKEN, url, { cookie: cookie.split(';')[0] ?? '' })).status).toBe(200);
  });
});

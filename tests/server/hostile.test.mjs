// SPDX-License-Identifier: MIT
// Bad input, clients that go away or are slow, and very many of them.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { get } from 'node:http'
import { connect } from 'node:net'
import { networkInterfaces } from 'node:os'
import { after, before, test } from 'node:test'
import { chat, start, until } from './server.mjs'

let server, call
before(async () => {
  server = await start(null, '--max-body', '64', '--ctx-size', '1024', '--max-waiting', '8')
  call = server.call
})
after(() => server.stop())

const post = body => call('POST', '/v1/chat/completions', body)
const idle = async () => (await call('GET', '/slots')).json.every(slot => !slot.is_processing)
const descriptors = () => readdirSync(`/proc/${server.pid}/fd`).length

test('bad bodies are refused with an error that says what is wrong', async () => {
  const deep = '['.repeat(20000)
  for (const [body, status, says] of [
    ['', 400, 'JSON'], ['{', 400, 'JSON'], ['[]', 400, 'object'], ['\xff{}', 400, 'JSON'],
    [`{"messages":${deep}`, 400, ''], [`{"messages":${deep}${']'.repeat(20000)}}`, 400, 'deeply'],
    [`{"a":[${'[],'.repeat(20000)}1]}`, 400, 'values'],
    [{}, 400, 'messages'], [{ messages: [] }, 400, 'messages'], [{ messages: [1] }, 400, 'object'],
    [{ messages: [{ role: 'king', content: 'x' }] }, 400, 'king'],
    [{ messages: [{ role: 'user', content: 5 }] }, 400, 'content'],
    [{ messages: [{ role: 'user', content: [{ type: 'image_url' }] }] }, 400, 'text parts'],
    [chat('x', { temperature: 'hot' }), 400, 'temperature'], [chat('x', { max_tokens: -1 }), 400, 'max_tokens'],
    [chat('x', { max_tokens: 1e30 }), 400, 'max_tokens'], [chat('x', { stop: [''] }), 400, 'stop'],
    [chat('x', { stream: 'yes' }), 400, 'stream'], [chat('x', { logprobs: true }), 400, 'logprobs'],
    [chat('x', { prompt_cache_key: {} }), 400, 'prompt_cache_key'],
    [chat('word '.repeat(3000)), 400, 'tokens'], [chat('x'.repeat(70000)), 413, 'large']]) {
    const { status: got, json } = await post(body)
    assert.equal(got, status, JSON.stringify(body).slice(0, 100))
    assert.equal(json.error.type, 'invalid_request_error')
    assert.ok(json.error.message.includes(says), `${json.error.message} for ${says}`)
  }
  for (const prompt of [[-1], [1 << 30], ['a', 'b'], {}, 5, '']) {
    const { status } = await call('POST', '/v1/completions', { prompt, max_tokens: 1 })
    assert.equal(status, prompt === '' ? 200 : 400, JSON.stringify(prompt))
  }
  const { status, json } = await call('POST', '/v1/messages', { messages: [{ role: 'user', content: 'x' }] })
  assert.equal(status, 400)
  assert.equal(json.type, 'error')
  assert.equal((await call('GET', '/cache?limit=x')).status, 400)
  assert.equal((await call('GET', '/cache?limit=99999999999999999999')).status, 400)
  assert.equal((await call('DELETE', '/cache')).status, 400)
  assert.equal((await call('DELETE', '/cache?model=other')).status, 404)
  assert.equal((await call('GET', '/nothing')).json.error.type, 'not_found_error')
})

test('a text that takes the tokenizer very long is refused at once', async t => {
  const bytes = await start(t, '--model', 'random') // each character is its bytes
  const content = 'a'.repeat(5e5), begun = Date.now()
  for (const [path, body] of [['/v1/chat/completions', chat(content)], ['/v1/completions', { prompt: content }], ['/tokenize', { content }]]) {
    const { status, json } = await bytes.call('POST', path, body)
    assert.deepEqual([status, json.error.code], [400, 'context_length_exceeded'], path)
  }
  assert.ok(Date.now() - begun < 5000)
})

test('unknown fields and odd text change nothing', async () => {
  const plain = (await post(chat('A cat.'))).json
  const more = (await post(chat('A cat.', { unknown: { a: [1] }, user: 'me', stop: 'not in the answer' }))).json
  assert.equal(more.choices[0].message.content, plain.choices[0].message.content)
  const raw = await fetch(server.url + '/v1/chat/completions',
    { method: 'POST', body: Buffer.from('{"max_tokens":2,"messages":[{"role":"user","content":"\xf0\x9f\x98 \xff"}]}', 'latin1') })
  assert.ok([200, 400].includes(raw.status))
  assert.equal((await post(chat('\u{1f600} \ud83d'.toWellFormed?.() ?? 'x'))).status, 200)
  assert.equal((await post(chat('before \u0000 after'))).status, 400)
})

test('a stop text ends the answer and is not in it', async () => {
  const body = chat('A cat sat on the', { max_tokens: 24 })
  const whole = (await post(body)).json.choices[0].message.content
  const stop = [...whole].slice(8, 10).join('')
  const cut = (await post({ ...body, stop })).json.choices[0]
  assert.equal(cut.message.content, whole.slice(0, whole.indexOf(stop)))
  assert.equal(cut.finish_reason, 'stop')
  const letters = [...new Set(whole.slice(4, 16))].reverse()
  const first = (await post({ ...body, stop: letters })).json.choices[0]
  assert.equal(first.message.content, whole.slice(0, Math.min(...letters.map(each => whole.indexOf(each)))))
})

/// All that the server sends until it closes the connection.
const raw = (head, body = '', more = 'Connection: close') => new Promise((resolve, reject) => {
  const socket = connect(server.port, '127.0.0.1')
  let text = ''
  socket.on('data', data => { text += data })
  socket.on('error', reject)
  socket.on('close', () => resolve(text))
  socket.write(`${head}\r\nHost: localhost\r\n${more}\r\n\r\n${body}`)
})

test('what the library does not limit is refused', async () => {
  const path = '/v1/chat/completions HTTP/1.1'
  for (const request of [
    [`POST ${path}\r\nTransfer-Encoding: chunked`, '2\r\n{}\r\n0\r\n\r\n'], [`POST ${path}`, '{}'],
    [`POST ${path}\r\nContent-Encoding: gzip\r\nContent-Length: 2`, '{}']]) {
    assert.match(await raw(...request), /^HTTP\/1.1 411 [^]*Content-Type: application\/json[^]*"invalid_request_error"/, request[0])
  }
  assert.match(await raw('HEAD / HTTP/1.1'), /^HTTP\/1.1 200 /)
})

test('an answer, an error too, is whole whatever ranges are asked for', async () => {
  for (const range of ['0-3', '-0', '99999999-', '0-1,-,-,-']) {
    assert.match(await raw(`GET /props HTTP/1.1\r\nRange: bytes=${range}`), /^HTTP\/1.1 200 [^]*\}$/, range)
    assert.match(await raw(`GET /none HTTP/1.1\r\nRange: bytes=${range}`), /^HTTP\/1.1 404 [^]*"not_found_error"\}\}$/, range)
    assert.match(await raw(`POST /tokenize HTTP/1.1\r\nRange: bytes=${range}\r\nContent-Length: 2`, '{}'), /^HTTP\/1.1 200 [^]*\}$/, range)
  }
})

test('a client of HTTP/1.0 gets an answer without chunks, which ends with the connection', async () => {
  for (const stream of [false, true]) {
    const body = JSON.stringify(chat('An old client.', { stream }))
    const request = (version, more) => raw(`POST /v1/chat/completions HTTP/${version}\r\nContent-Length: ${body.length}`, body, more)
    const [head, answer] = (await request('1.0', 'Connection: Keep-Alive')).split('\r\n\r\n')
    assert.match(head, /^HTTP\/1.1 200 [^]*Connection: close/)
    assert.doesNotMatch(head, /Transfer-Encoding/)
    assert.match(answer, stream ? /^data: [^]*data: \[DONE\]\n\n$/ : /^\{.*\}$/)
    assert.match(await request('1.1'), /Transfer-Encoding: chunked/)
  }
})

test('an empty API key is refused: everybody has it', async () => {
  await assert.rejects(start(null, '--api-key', ''))
})

const outside = Object.values(networkInterfaces()).flat().find(each => each.family === 'IPv4' && !each.internal)?.address
test('it listens to the loopback, unless told otherwise', { skip: outside ? false : 'this machine has no other address' }, async t => {
  const reach = port => new Promise(resolve => connect(port, outside).on('error', () => resolve(false)).on('connect', function () { this.destroy(); resolve(true) }))
  assert.equal(await reach(server.port), false)
  const open = await start(t, '--host', '0.0.0.0')
  assert.equal(await reach(open.port), true)
})

test('it ends when it is told so as soon as it says where it listens', async () => {
  for (let i = 0; i < 5; ++i) await (await start()).stop()
})

test('requests from pages of other sites are refused', async () => {
  assert.equal((await call('GET', '/cache', undefined, { Origin: 'http://evil.example' })).status, 403)
  assert.equal((await call('GET', '/cache', undefined, { Origin: server.url })).status, 200)
  const named = host => new Promise(resolve => get(server.url + '/cache', { headers: { host } }, reply => { reply.resume(); resolve(reply.statusCode) }))
  for (const [host, status] of [['localhost', 200], [`localhost:${server.port}`, 200], ['[::1]:80', 200],
    ['evil.example', 403], ['evil.example:80', 403], ['localhost.evil.example', 403], ['127.0.0.1.evil.example:80', 403]]) {
    assert.equal(await named(host), status, host)
  }
})

test('a client that hangs up stops its sequence, and what was computed is kept', async t => {
  const other = await start(t, '--model', 'random') // its answers do not end by themselves
  const cancelled = async () =>
    Number(/^promptkv_server_cancelled_total (\d+)/m.exec((await other.call('GET', '/metrics')).text)[1])
  const slots = async () => (await other.call('GET', '/slots')).json
  for (const stream of [true, false]) {
    const text = `A client that goes away ${stream}.`
    const before = await cancelled()
    const socket = connect(other.port, '127.0.0.1')
    const body = JSON.stringify(chat(text, { stream, max_tokens: 3000 }))
    socket.write(`POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: ${body.length}\r\n\r\n${body}`)
    await until(async () => (await slots()).some(slot => slot.n_decoded > 0))
    socket.destroy()
    await until(async () => !(await slots()).some(slot => slot.is_processing))
    assert.equal(await cancelled(), before + 1)
    const again = (await other.call('POST', '/v1/chat/completions', chat(text))).json
    assert.equal(again.usage.prompt_tokens_details.cached_tokens, again.usage.prompt_tokens - 1)
  }
})

test('slow and silent clients stall nobody', async () => {
  const sockets = []
  for (let i = 0; i < 1000; ++i) {
    const socket = connect(server.port, '127.0.0.1')
    socket.on('error', () => {})
    socket.write(i % 2 ? '' : 'POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{')
    sockets.push(socket)
  }
  await Promise.all(sockets.map(socket => once(socket, 'connect')))
  const begun = Date.now()
  const body = JSON.stringify(chat('A quick one.'))
  assert.match(await raw(`POST /v1/chat/completions HTTP/1.1\r\nContent-Length: ${body.length}`, body), /^HTTP\/1.1 200 /)
  assert.ok(Date.now() - begun < 4000, 'before the first of them is given up')
  for (const socket of sockets) socket.destroy()
})

test('1,000 connections are all answered or refused clearly, and nothing is left of them', async () => {
  await until(idle)
  const before = descriptors()
  const get = path => new Promise(resolve => {
    const socket = connect(server.port, '127.0.0.1')
    let text = ''
    socket.on('data', data => { text += data })
    socket.on('error', () => {})
    socket.on('close', () => resolve(Number(/^HTTP\/1.1 (\d+)/.exec(text)?.[1])))
    const body = path === '/health' ? '' : JSON.stringify(chat('Very many.', { max_tokens: 1 }))
    socket.write(`${body ? 'POST' : 'GET'} ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n${body}`)
  })
  const answers = await Promise.all(Array.from({ length: 1000 },
    (_, i) => get(i % 10 ? '/health' : '/v1/chat/completions')))
  const count = status => answers.filter(answer => answer === status).length
  assert.equal(count(200) + count(503), 1000, JSON.stringify(answers.filter(answer => answer !== 200)))
  assert.ok(count(200) >= 900)
  await until(() => descriptors() <= before + 2)
  assert.equal((await post(chat('Very many.'))).status, 200)
})

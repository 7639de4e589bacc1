// SPDX-License-Identifier: MIT
// What the server says of its cache, and that the cache does it.
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { chat, start, system, until } from './server.mjs'

let server, call, name
before(async () => {
  server = await start(null)
  call = server.call
  name = (await call('GET', '/v1/models')).json.data[0].id
})
after(() => server.stop())

const ask = async (text, more) => (await call('POST', '/v1/chat/completions', chat(text, more))).json
const cached = answer => answer.usage.prompt_tokens_details.cached_tokens
const cache = async () => (await call('GET', '/cache')).json

test('the endpoints of llama-server answer', async () => {
  assert.deepEqual((await call('GET', '/health')).json, { status: 'ok' })
  assert.equal((await call('GET', '/props')).json.total_slots, 4)
  assert.equal((await call('GET', '/slots')).json.length, 4)
  const tokens = async body => (await call('POST', '/tokenize', body)).json.tokens
  const cat = await tokens({ content: 'a cat' })
  assert.ok(cat.length > 1 && cat.every(Number.isInteger))
  assert.equal((await tokens({ content: 'a cat', add_special: true })).length, cat.length + 1)
})

test('an entry says how old it is, and how many requests used its last block', async () => {
  await call('DELETE', `/cache?model=${name}`)
  for (let i = 0; i < 3; ++i) await ask('A goat ate.')
  const { entries } = await cache()
  assert.equal(entries.find(entry => entry.tier === 'user').hits, 2)
  assert.equal(entries.find(entry => entry.tier === 'assistant').hits, 0)
  for (const entry of entries) assert.ok(entry.age_s >= 0 && entry.age_s < 3600 && entry.model === name)
})

test('entries share the blocks of their system prompt', async () => {
  await call('DELETE', `/cache?model=${name}`)
  await ask('A cat sat.', { prompt_cache_key: 'one' })
  await ask('A dog ran.', { prompt_cache_key: 'two' })
  const { entries, bytes, count, stats } = await cache()
  assert.equal(count, entries.length)
  assert.deepEqual([...new Set(entries.map(entry => entry.tier))].sort(), ['assistant', 'system', 'user'])
  assert.equal(entries.filter(entry => entry.tier === 'system').length, 1)
  assert.equal(entries.reduce((sum, entry) => sum + entry.bytes, 0), stats.bytes_referenced)
  assert.ok(bytes < stats.bytes_referenced)
  for (const entry of entries) assert.equal(entry.own_bytes + entry.shared_bytes, entry.bytes)
  assert.ok(entries.some(entry => entry.own_bytes > 0) && entries.every(entry => entry.shared_bytes > 0))
  const blocks = new Set(entries.flatMap(entry => entry.blocks)).size
  assert.match((await call('GET', '/metrics')).text, new RegExp(`^promptkv_blocks ${blocks}$`, 'm'))
  for (const entry of entries) assert.equal(entry.blocks[0], 0, 'the first block is the same for all')
  assert.equal(new Set(entries.map(entry => entry.session)).size, 3) // one, two, none
})

test('a turn continues what was stored, and an edit falls back to what both share', async () => {
  const begun = chat('A bird flew far away.', { prompt_cache_key: 'turns' })
  const first = (await call('POST', '/v1/chat/completions', begun)).json
  const turn = { ...begun, messages: [...begun.messages, first.choices[0].message, { role: 'user', content: 'And then?' }] }
  const second = (await call('POST', '/v1/chat/completions', turn)).json
  assert.ok(cached(second) >= first.usage.prompt_tokens)
  const edited = await ask('A bird flew home.', { prompt_cache_key: 'turns' })
  assert.ok(cached(edited) > 0 && cached(edited) < first.usage.prompt_tokens)
})

test('cache_prompt false neither reads nor stores', async () => {
  const before = (await cache()).stats
  const answer = await ask('A bird flew far away.', { cache_prompt: false })
  const { stats } = await cache()
  assert.equal(cached(answer), 0)
  assert.equal(stats.lookups, before.lookups)
  assert.equal(stats.stored, before.stored)
})

test('explain says why without changing anything', async () => {
  await ask('The bear was sad.')
  const before = (await cache()).stats
  const messages = chat('The bear was glad.').messages
  const hit = (await call('POST', '/cache/explain', { messages })).json
  assert.equal(hit.reason, 'none')
  assert.ok(hit.reused_tokens > 0 && hit.reused_tokens < hit.prompt_tokens)
  assert.match(hit.text, /^hit/)
  const query = encodeURIComponent(JSON.stringify(messages))
  assert.deepEqual((await call('GET', `/cache/explain?messages=${query}`)).json, hit)
  const miss = (await call('GET', '/cache/explain?prompt=%23%23%23')).json
  assert.notEqual(miss.reason, 'none')
  assert.deepEqual((await cache()).stats, before)
})

test('a session, a prefix and a model are erased, and nothing else', async () => {
  await call('DELETE', `/cache?model=${name}`)
  assert.equal((await cache()).count, 0)
  await ask('A cat sat.', { prompt_cache_key: 'one' })
  await ask('A dog ran.', { prompt_cache_key: 'two' })
  const before = (await cache()).entries
  const { erased } = (await call('DELETE', '/cache?session=one')).json
  const left = (await cache()).entries
  assert.equal(erased, 2) // the prompt and the answer
  assert.equal(left.length, before.length - 2)
  assert.ok(cached(await ask('A dog ran.')) > 0)
  // A chat's body names its model, too: that does not erase all of the model.
  await call('DELETE', '/cache', { model: name, messages: [{ role: 'system', content: 'Another one.' }] })
  assert.equal((await cache()).count, left.length)
  assert.equal((await call('DELETE', '/cache', { messages: [{ role: 'system', content: '' }] })).status, 400)
  await call('DELETE', '/cache', { messages: [{ role: 'system', content: system }] })
  assert.equal((await cache()).count, 0)
})

test('what is erased while its answer is computed is not stored again', async () => {
  const reply = await fetch(`${server.url}/v1/chat/completions`,
    { method: 'POST', body: JSON.stringify(chat('A long walk.', { stream: true, max_tokens: 200, temperature: 2 })) })
  const chunks = reply.body.getReader()
  await chunks.read() // it is computed now
  await call('DELETE', `/cache?model=${name}`)
  while (!(await chunks.read()).done) { /* to its end */ }
  assert.equal((await cache()).count, 0)
  await ask('A long walk.') // later requests are stored
  assert.ok((await cache()).count > 0)
})

test('the budget holds, and a restart of traffic fills it again', async () => {
  await ask('A cat sat.')
  const most = (await cache()).most_bytes
  const tight = Math.round((await cache()).bytes * 1.2)
  assert.equal((await call('PUT', '/cache', { max_bytes: tight })).json.max_bytes, tight)
  for (const text of ['A dog ran and ran.', 'A fish swam and swam.', 'A frog sang and sang.']) {
    await ask(text)
    assert.ok((await cache()).bytes <= tight)
  }
  const { stats } = await cache()
  assert.ok(stats.evicted + stats.cut > 0)
  assert.equal((await call('PUT', '/cache', { max_bytes: most + 1 })).status, 400)
  assert.equal((await call('PUT', '/cache', { max_bytes: most })).status, 200)
})

test('promtool accepts the metrics, and they say what happened', async () => {
  const before = (await call('GET', '/metrics')).text
  const value = (text, metric) => Number(new RegExp(`^${metric} (\\S+)$`, 'm').exec(text)?.[1])
  const answer = await ask('A very new story begins.')
  const { text } = await call('GET', '/metrics')
  const grown = metric => value(text, metric) - value(before, metric)
  assert.equal(grown('llamacpp:prompt_tokens_total'), answer.timings.prompt_n)
  assert.equal(grown('llamacpp:prompt_tokens_cached_total'), answer.timings.cache_n)
  assert.equal(grown('llamacpp:tokens_predicted_total'), answer.usage.completion_tokens)
  assert.equal(grown('vllm:prefix_cache_queries_total'), answer.usage.prompt_tokens)
  assert.equal(grown('vllm:prefix_cache_hits_total'), answer.timings.cache_n)
  assert.equal(grown('promptkv_hits_longer_total'), 1)
  const { bytes, count } = await cache()
  assert.equal(value(text, 'promptkv_bytes'), bytes)
  assert.equal(value(text, 'promptkv_entries'), count)
  assert.equal([...text.matchAll(/^promptkv_tier_entries\{.*\} (\d+)$/gm)].reduce((sum, m) => sum + Number(m[1]), 0), count)
  const promtool = spawnSync('promtool', ['check', 'metrics'], { input: text, encoding: 'utf8' })
  if (promtool.error) return console.log('skipped: promtool is not installed')
  // It also dislikes the colons in names that llama-server and vLLM chose.
  const said = (promtool.stdout + promtool.stderr).split('\n').filter(line => line && !/^(llamacpp|vllm):\S+ metric names should not contain ':'$/.test(line))
  assert.deepEqual(said, [])
})

test('a mark that there is no room for is not told as written', async () => {
  const body = {
    max_tokens: 2,
    messages: [{ role: 'user', content: [{ type: 'text', text: 'A whale is told of here.', cache_control: { type: 'ephemeral' } }] }]
  }
  const created = async () => (await call('POST', '/v1/messages', body)).json.usage.cache_creation_input_tokens
  const most = (await cache()).most_bytes
  await call('PUT', '/cache', { max_bytes: 0 })
  assert.equal(await created(), 0)
  await call('PUT', '/cache', { max_bytes: most })
  assert.ok(await created() > 0)
})

test('tenants do not see, reuse or erase state of each other', async t => {
  const other = await start(t, '--api-key', 'a', '--api-key', 'b')
  const as = key => ({ Authorization: `bearer ${key}` })
  const body = chat('A secret of mine.', { prompt_cache_key: 'same' })
  assert.equal((await other.call('POST', '/v1/chat/completions', body)).status, 401)
  const mine = (await other.call('POST', '/v1/chat/completions', body, as('a'))).json
  const theirs = (await other.call('POST', '/v1/chat/completions', body, { 'x-api-key': 'b' })).json
  assert.equal(cached(theirs), 0)
  assert.equal(theirs.choices[0].message.content, mine.choices[0].message.content)
  const before = (await other.call('GET', '/cache', undefined, as('a'))).json.count
  assert.ok((await other.call('DELETE', '/cache?session=same', undefined, as('b'))).json.erased > 0)
  assert.equal((await other.call('GET', '/cache', undefined, as('a'))).json.count, before)
  await other.call('DELETE', `/cache?model=${name}`, undefined, as('b'))
  const why = (await other.call('POST', '/cache/explain', { messages: body.messages }, as('b'))).json
  assert.equal(why.reason, 'nothing_shared')
  assert.equal((await other.call('PUT', '/cache', { max_bytes: 0 }, as('b'))).status, 403)
})

/// A place for a second level, for one test. Null: no Redis server is installed.
async function place(t, kind) {
  const folder = mkdtempSync(join(tmpdir(), 'promptkv-store-'))
  t.after(() => rmSync(folder, { recursive: true }))
  if (kind === 'folder') return folder
  const listener = createServer().listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const { port } = listener.address()
  await new Promise(resolve => listener.close(resolve))
  const redis = spawn('redis-server', ['--port', port, '--bind', '127.0.0.1', '--save', '', '--dir', folder], { stdio: 'ignore' })
  if (!await Promise.race([once(redis, 'spawn'), once(redis, 'error').then(() => false)])) return null
  t.after(() => redis.kill())
  const ready = () => new Promise(resolve => connect(port, '127.0.0.1').on('connect', function () { this.end(); resolve(true) }).on('error', () => resolve(false)))
  await until(ready)
  return `redis://127.0.0.1:${port}`
}

for (const kind of ['folder', 'Redis server']) test(`a second level in a ${kind} outlives the server, and what is erased leaves it too`, async t => {
  const store = await place(t, kind)
  if (!store) return t.skip('redis-server is not installed')
  const kept = chat('A frog that is kept.', { prompt_cache_key: 'kept' })
  const erased = chat('Some other words that are erased.', { prompt_cache_key: 'erased', messages: [{ role: 'user', content: 'Quite another story about the moon and the stars.' }] })
  const first = await start(null, '--store', store)
  for (const body of [kept, erased]) await first.call('POST', '/v1/chat/completions', body)
  await first.call('DELETE', '/cache?session=erased')
  await first.stop()
  const second = await start(t, '--store', store)
  const answer = (await second.call('POST', '/v1/chat/completions', kept)).json
  assert.equal(cached(answer), answer.usage.prompt_tokens - 1)
  assert.equal(cached((await second.call('POST', '/v1/chat/completions', erased)).json), 0)
  const { text } = await second.call('GET', '/metrics')
  assert.ok(Number(/^promptkv_second_level_tokens_loaded_total (\d+)$/m.exec(text)[1]) > 0)
  const values = text.match(/^promptkv\S+/gm)
  assert.equal(new Set(values).size, values.length, 'no metric has two values')
})

test('a tenant finds its state after a restart by its key, wherever that stands among the keys', async t => {
  const store = await place(t, 'folder')
  const body = chat('A secret that is stored.')
  const ask = async (running, key) => cached((await running.call('POST', '/v1/chat/completions', body, { 'x-api-key': key })).json)
  const first = await start(null, '--store', store, '--api-key', 'a', '--api-key', 'b')
  assert.equal(await ask(first, 'a'), 0)
  await first.stop()
  const second = await start(t, '--store', store, '--api-key', 'b', '--api-key', 'a')
  assert.equal(await ask(second, 'b'), 0)
  assert.ok(await ask(second, 'a') > 0)
})

for (const kind of ['hybrid', 'recurrent']) {
  test(`a ${kind} model continues from the state at the end of a turn`, async t => {
    const other = await start(t, '--model', kind)
    const begun = chat('A bird flew.')
    const first = (await other.call('POST', '/v1/chat/completions', begun)).json
    const again = (await other.call('POST', '/v1/chat/completions', begun)).json
    assert.equal(cached(first), 0)
    assert.equal(cached(again), first.usage.prompt_tokens - 1)
    assert.equal(again.choices[0].message.content, first.choices[0].message.content)
    const sibling = (await other.call('POST', '/v1/chat/completions', chat('A cow sat.'))).json
    assert.ok(cached(sibling) > 0, 'the state at the end of the system prompt')
    })
}

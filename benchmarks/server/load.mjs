#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Replays multi-turn traffic over HTTP against a server with llama-server's API, and prints one line of CSV.
//   load.mjs URL chats [CLIENTS] [ROUNDS]     chats of 64 clients in 5 rounds, on 4 system prompts
//   load.mjs URL trace FILE.ptrace [SESSIONS] [LANES] [KEEP]
//       the sessions of a recorded trace whose blocks are single tokens, in 16 lanes; of its tokens one in KEEP (4)
// A client sends its next request when the answer to the last one is whole. Node.js 18 or newer, no packages.
import { readFileSync } from 'node:fs'
import { request } from 'node:http'

const [url, kind, ...rest] = process.argv.slice(2)
if (!url || !['chats', 'trace'].includes(kind)) {
  console.error(readFileSync(new URL(import.meta.url), 'utf8').split('\n').slice(2, 8).map(line => line.slice(3)).join('\n'))
  process.exit(2)
}
const totals = { requests: 0, prompt: 0, prefilled: 0, answered: 0 }
const firsts = []

/// Sends a request, on a connection of its own, and answers the text that came.
async function ask(path, body) {
  const begun = performance.now()
  const reply = await new Promise((resolve, reject) =>
    request(url + path, { method: 'POST', agent: false, headers: { 'Content-Type': 'application/json' } }, resolve)
      .on('error', reject).end(JSON.stringify({ ...body, stream: true, temperature: 0 })))
  reply.setEncoding('utf8')
  let text = '', held = '', first, timings
  for await (const part of reply) {
    const events = (held + part).split('\n\n')
    held = events.pop()
    for (const event of events) {
      if (!event.startsWith('data: {')) continue
      const data = JSON.parse(event.slice(6))
      const piece = data.choices?.[0]?.delta?.content ?? data.choices?.[0]?.text
      if (piece) { first ??= performance.now(); text += piece }
      timings = data.timings ?? timings
    }
  }
  if (!timings) throw new Error(`${reply.statusCode}: ${held}`)
  firsts.push((first ?? performance.now()) - begun)
  totals.requests += 1
  totals.prompt += timings.prompt_n + (timings.cache_n ?? 0)
  totals.prefilled += timings.prompt_n
  totals.answered += timings.predicted_n
  return text
}

/// Words that are always the same for a seed.
function words(count, seed) {
  const all = 'the a cat dog bird girl boy bear park ball house tree happy sad big little ran sat saw found liked went was and then they'.split(' ')
  const out = []
  for (let i = 0; i < count; ++i) {
    seed = (seed * 1103515245 + 12345) % 2147483648
    out.push(all[Math.floor(seed / 65536) % all.length])
  }
  return out.join(' ')
}

async function chats(clients = 64, rounds = 5) {
  const one = async n => {
    const messages = [{ role: 'system', content: words(120, n % 4 + 1) }]
    for (let round = 0; round < rounds; ++round) {
      messages.push({ role: 'user', content: words(30, 1000 + 100 * n + round) })
      const content = await ask('/v1/chat/completions', { messages, max_tokens: 16, prompt_cache_key: `client ${n}` })
      messages.push({ role: 'assistant', content })
    }
  }
  await Promise.all(Array.from({ length: clients }, (_, n) => one(n)))
}

async function trace(file, sessions = 64, lanes = 16, keep = 4) {
  const lines = readFileSync(file, 'utf8').split('\n').filter(line => line && !line.startsWith('#')).map(line => line.split('\t'))
  const bySession = new Map()
  for (const line of lines) {
    if (!bySession.has(line[1])) bySession.set(line[1], [])
    bySession.get(line[1]).push(line)
  }
  const waiting = [...bySession].slice(0, sessions)
  const tokensOf = ranges => {
    const prompt = []
    for (const range of ranges.split(',')) {
      const [start, length] = range.split(':').map(Number)
      for (let id = start; id < start + length; ++id) if (id % keep === 0) prompt.push(6 + (Math.imul(id / keep, 2654435761) >>> 8) % 250)
    }
    return prompt
  }
  const lane = async () => {
    for (let next; (next = waiting.shift());) {
      for (const line of next[1]) {
        await ask('/v1/completions', { prompt: tokensOf(line[6]), max_tokens: Math.max(1, Math.min(32, Math.round(line[3] / keep))), prompt_cache_key: next[0] })
      }
    }
  }
  await Promise.all(Array.from({ length: lanes }, lane))
}

const begun = performance.now()
await (kind === 'chats' ? chats(...rest.map(Number)) : trace(rest[0], ...rest.slice(1).map(Number)))
const seconds = (performance.now() - begun) / 1000
firsts.sort((a, b) => a - b)
const at = share => firsts[Math.min(firsts.length - 1, Math.floor(share * firsts.length))].toFixed(0)
console.log('requests,prompt_tokens,prefilled_tokens,first_token_p50_ms,first_token_p99_ms,seconds,answer_tokens_per_s')
console.log([totals.requests, totals.prompt, totals.prefilled, at(0.5), at(0.99), seconds.toFixed(1), (totals.answered / seconds).toFixed(1)].join(','))

// SPDX-License-Identifier: MIT
// The clients that others wrote: the npm packages openai and @anthropic-ai/sdk.
import Anthropic from '@anthropic-ai/sdk'
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import OpenAI from 'openai'
import { chat, start, system } from './server.mjs'

let server, openai, anthropic, model
before(async () => {
  server = await start(null, '--api-key', 'secret')
  openai = new OpenAI({ baseURL: server.url + '/v1', apiKey: 'secret', maxRetries: 0 })
  anthropic = new Anthropic({ baseURL: server.url, apiKey: 'secret', maxRetries: 0 })
  model = (await openai.models.list()).data[0].id
})
after(() => server.stop())

test('openai: a second chat reads the first from the cache', async () => {
  const first = await openai.chat.completions.create({ model, ...chat('A cat sat on a mat.') })
  assert.equal(first.choices[0].message.role, 'assistant')
  assert.equal(first.usage.prompt_tokens_details.cached_tokens, 0)
  assert.equal(first.usage.total_tokens, first.usage.prompt_tokens + first.usage.completion_tokens)
  assert.equal(first.prompt_cache_diagnostics.type, 'cache_miss')
  assert.equal(first.prompt_cache_diagnostics.reason, 'input_changed')
  const again = await openai.chat.completions.create({ model, ...chat('A cat sat on a mat.') })
  assert.equal(again.usage.prompt_tokens_details.cached_tokens, first.usage.prompt_tokens - 1)
  assert.equal(again.choices[0].message.content, first.choices[0].message.content)
  assert.equal(again.timings.cache_n + again.timings.prompt_n, again.usage.prompt_tokens)
  assert.equal(again.prompt_cache_diagnostics.type, 'cache_hit')
})

test('openai: a streamed chat has the text and the usage of one that is sent at once', async () => {
  const body = chat('A dog ran to the park.', { max_tokens: 12 })
  const whole = await openai.chat.completions.create({ model, ...body })
  const stream = await openai.chat.completions.create(
    { model, ...body, stream: true, stream_options: { include_usage: true } })
  let text = '', finish, usage
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? ''
    finish ??= chunk.choices[0]?.finish_reason
    usage ??= chunk.usage
  }
  assert.equal(text, whole.choices[0].message.content)
  assert.equal(finish, whole.choices[0].finish_reason)
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens)
  assert.equal(usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens - 1)
})

test('openai: completions take a text or tokens, streamed too', async () => {
  const body = { model, prompt: 'One day, a big bear', max_tokens: 6, temperature: 0 }
  const whole = await openai.completions.create(body)
  const { json } = await server.call('POST', '/tokenize', { content: body.prompt, add_special: true },
    { Authorization: 'Bearer secret' })
  const tokens = await openai.completions.create({ ...body, prompt: json.tokens })
  assert.equal(tokens.choices[0].text, whole.choices[0].text)
  const fewer = await openai.completions.create({ ...body, max_tokens: undefined, n_predict: 2 })
  assert.equal(fewer.usage.completion_tokens, 2) // as llama-server has it
  let text = ''
  for await (const chunk of await openai.completions.create({ ...body, stream: true })) text += chunk.choices[0].text
  assert.equal(text, whole.choices[0].text)
})

test('openai: errors arrive as errors of the package', async () => {
  await assert.rejects(openai.chat.completions.create({ model, ...chat('x', { n: 2 }) }), OpenAI.BadRequestError)
  await assert.rejects(openai.models.retrieve('other'), OpenAI.NotFoundError)
  const stranger = new OpenAI({ baseURL: server.url + '/v1', apiKey: 'wrong', maxRetries: 0 })
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError)
})

test('anthropic: cache_control marks a prefix that the next message reads', async () => {
  const marked = [{ type: 'text', text: system + ' They are about the sea.', cache_control: { type: 'ephemeral' } }]
  const ask = text => anthropic.messages.create(
    { model, max_tokens: 4, temperature: 0, system: marked, messages: [{ role: 'user', content: text }] })
  const first = await ask('A fish swam.')
  assert.equal(first.type, 'message')
  assert.ok(first.usage.cache_creation_input_tokens > 0)
  const created = first.usage.cache_creation_input_tokens + first.usage.cache_read_input_tokens
  const second = await ask('The whale was big.')
  assert.ok(second.usage.cache_read_input_tokens >= created)
  assert.equal(second.usage.cache_creation_input_tokens, 0)
  const { input_tokens } = await anthropic.messages.countTokens(
    { model, system: marked, messages: [{ role: 'user', content: 'The whale was big.' }] })
  assert.equal(second.usage.cache_read_input_tokens + second.usage.input_tokens, input_tokens)
})

test('anthropic: a streamed message has the text of one that is sent at once', async () => {
  const body = { model, max_tokens: 8, temperature: 0, messages: [{ role: 'user', content: 'A frog jumped.' }] }
  const whole = await anthropic.messages.create(body)
  const stream = anthropic.messages.stream(body)
  let text = ''
  stream.on('text', piece => { text += piece })
  const final = await stream.finalMessage()
  assert.equal(text, whole.content[0].text)
  assert.deepEqual(final.content, whole.content)
  assert.equal(final.stop_reason, whole.stop_reason)
  assert.equal(final.usage.output_tokens, whole.usage.output_tokens)
})

test('anthropic: errors arrive as errors of the package', async () => {
  const body = { model, max_tokens: 4, messages: [{ role: 'user', content: 'x' }] }
  await assert.rejects(anthropic.messages.create({ ...body, tools: [{ name: 'a', input_schema: { type: 'object' } }] }),
    Anthropic.BadRequestError)
  const stranger = new Anthropic({ baseURL: server.url, apiKey: 'wrong', maxRetries: 0 })
  await assert.rejects(stranger.messages.create(body), Anthropic.AuthenticationError)
})

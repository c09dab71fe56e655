import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { CftError } from '../../lib/errors.js';
import {
  type ChatMessage,
  type ChatTemplate,
  type ChatTemplateOptions,
  readChatTemplate,
} from '../../lib/model/chat-template.js';
import { fixturePath, readJson, temporaryFolder } from '../helpers/fixtures.js';

interface Case {
  messages: ChatMessage[];
  options: Record<string, unknown> & { add_generation_prompt?: boolean; tools?: Record<string, unknown>[] };
  text?: string;
  error?: string;
}

const fixture = readJson<{
  now: [number, number, number, number, number, number];
  templates: { name: string; template: unknown; cases: Case[] }[];
}>(fixturePath('chat-templates.json'));
const [year, month, ...rest] = fixture.now;
const now = new Date(year, month - 1, ...rest);
const specialTokens = { bos_token: '<s>', eos_token: '</s>' };

/** Python's keyword arguments as our options. */
function optionsOf({ add_generation_prompt, tools, ...variables }: Case['options']): ChatTemplateOptions {
  return {
    now,
    variables,
    ...(add_generation_prompt !== undefined && { addGenerationPrompt: add_generation_prompt }),
    ...(tools && { tools }),
  };
}

for (const { name, template, cases } of fixture.templates) {
  test(`${name}: renders as in transformers`, (t) => {
    const chat = readChatTemplate(
      temporaryFolder(t),
      { chat_template: template },
      specialTokens,
    ) as ChatTemplate;
    for (const { messages, options, text, error } of cases) {
      const render = () => chat.render(messages, optionsOf(options));
      if (text !== undefined) t.is(render(), text);
      else {
        const found = t.throws(render, { instanceOf: CftError })?.message;
        // A failure has Python's words; a refusal has the template's own.
        if (!name.startsWith('failing')) t.true(found?.includes(error as string), found);
      }
    }
  });
}

test('chat_template.jinja comes before tokenizer_config.json', (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, 'chat_template.jinja'), 'file {{ messages|length }}');
  const chat = readChatTemplate(folder, { chat_template: 'config' }, {}) as ChatTemplate;
  t.is(chat.render([{ role: 'user', content: 'x' }]), 'file 1');
});

test('additional templates serve tools', (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, 'chat_template.jinja'), 'plain');
  mkdirSync(join(folder, 'additional_chat_templates'));
  writeFileSync(join(folder, 'additional_chat_templates', 'tool_use.jinja'), 'with {{ tools|length }}');
  const chat = readChatTemplate(folder, {}, {}) as ChatTemplate;
  t.is(chat.render([{ role: 'user', content: 'x' }], { tools: [{}, {}] }), 'with 2');
  t.is(chat.render([{ role: 'user', content: 'x' }]), 'plain');
});

test('no template anywhere is none', (t) => {
  t.is(readChatTemplate(temporaryFolder(t), {}, {}), undefined);
  t.is(readChatTemplate(temporaryFolder(t), { chat_template: null }, {}), undefined);
});

test('dates do not depend on the language of the machine, and leading zeros can go', (t) => {
  const template = "{{ strftime_now('%d %B %Y, %-d %-I %p') }}";
  const chat = readChatTemplate(temporaryFolder(t), { chat_template: template }, {}) as ChatTemplate;
  t.is(chat.render([], { now: new Date(2024, 4, 3, 0, 7, 9) }), '03 May 2024, 3 12 AM');
});

const broken: [string, unknown, RegExp][] = [
  ['bad Jinja', '{% if %}', /tokenizer_config\.json: the chat template is not valid Jinja: /],
  [
    'a refusal that names the roles and the way out',
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}",
    /the chat template refuses messages of roles system, user: no system role here \(an empty system text leaves/,
  ],
  [
    'a refusal that has nothing to do with the system message',
    "{{ raise_exception('never') }}",
    /the chat template refuses messages of roles system, user: never$/,
  ],
  [
    'an endless range',
    '{% for i in range(10**9) %}{% endfor %}',
    /failed on .*: range: expected at most 100000 numbers/,
  ],
  [
    'loops in loops without an end',
    '{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}',
    /failed on messages of roles system, user: it runs for more than 5000000 statements$/,
  ],
  ['a date directive that is not Python’s', "{{ strftime_now('%Q') }}", /strftime_now: %Q is not supported/],
  [
    'named templates without a default',
    [{ name: 'rag', template: '' }],
    /expected a chat template named "default", found rag/,
  ],
  ['templates of the wrong kind', [{ name: 'rag' }], /chat_template: expected a text or a list of \{name, /],
];

for (const [what, template, message] of broken) {
  test(`refused: ${what}`, (t) => {
    const folder = temporaryFolder(t);
    const messages = ['system', 'user'].map((role) => ({ role, content: 'x' }));
    const error = t.throws(
      () => readChatTemplate(folder, { chat_template: template }, {})?.render(messages),
      { instanceOf: CftError, message },
    );
    t.is(error?.code, 'ERR_CFT_BAD_MODEL');
  });
}

test('a broken template is found when it is read, not when it is used', (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, 'chat_template.jinja'), '{% for m in messages %}');
  const message = /chat_template\.jinja: the chat template is not valid Jinja: /;
  t.is(
    t.throws(() => readChatTemplate(folder, {}, {}), { instanceOf: CftError, message })?.code,
    'ERR_CFT_BAD_MODEL',
  );
});

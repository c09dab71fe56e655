/**
 * The Jinja interpreter with the Python semantics that chat templates lean on and the library leaves out. It is bent
 * from outside: the methods below are private in its types, so the version is pinned and the tests compare with what
 * transformers renders. What is left different is listed in docs/chat-templates.md.
 */
import { Environment, Interpreter } from '@huggingface/jinja';

/** A value while a template runs. */
interface Value {
  type: string;
  value: unknown;
}

interface Node {
  type: string;
  [field: string]: unknown;
}

/** What the library's class has and its types hide. */
interface Internals {
  evaluate(node: Node | undefined, environment: Environment): Value;
  evaluateBlock(statements: Node[], environment: Environment): Value;
  evaluateFor(node: Node, environment: Environment): Value;
  evaluateMemberExpression(node: Node, environment: Environment): Value;
  evaluateBinaryExpression(node: Node, environment: Environment): Value;
  applyFilter(operand: Value, filter: Node, environment: Environment): Value;
  run(program: unknown): Value;
}

const Base = Interpreter as unknown as new (environment: Environment) => Internals;

/** Python's str.isspace; JavaScript's trim differs in a few control characters. */
const pythonSpace = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
const leadingSpace = new RegExp(`^[${pythonSpace}]+`);
const trailingSpace = new RegExp(`[${pythonSpace}]+$`);

/** Python's str.lstrip and str.rstrip; `chars` is a set of characters, not a prefix. */
function stripped(text: string, chars: unknown, left: boolean, right: boolean): string {
  if (chars === undefined || chars === null) {
    const start = left ? text.replace(leadingSpace, '') : text;
    return right ? start.replace(trailingSpace, '') : start;
  }
  if (typeof chars !== 'string') throw new Error('strip: expected a text or none as its argument');
  const set = new Set(chars);
  const letters = [...text];
  let [from, to] = [0, letters.length];
  while (left && from < to && set.has(letters[from]!)) from++;
  while (right && to > from && set.has(letters[to - 1]!)) to--;
  return letters.slice(from, to).join('');
}

const capitalized = (text: string): string => {
  const [first = '', ...rest] = text;
  return first.toUpperCase() + rest.join('').toLowerCase();
};

const methods: Readonly<Record<string, (text: string) => (chars?: unknown) => string>> = {
  strip: (text) => (chars) => stripped(text, chars, true, true),
  lstrip: (text) => (chars) => stripped(text, chars, true, false),
  rstrip: (text) => (chars) => stripped(text, chars, false, true),
  capitalize: (text) => () => capitalized(text),
  title: (text) => () => text.replace(/\p{L}+/gu, capitalized),
};

/** A JavaScript value as the library holds it; its classes are not exported. */
const runtimeValue = (value: unknown): Value => new Environment().set('value', value) as Value;

/** A node that stands for what was evaluated already, so that nothing is evaluated twice. */
const evaluated = (value: Value): Node => ({ type: 'Evaluated', value });

const isNumber = ({ type }: Value): boolean => type === 'IntegerValue' || type === 'FloatValue';

/** Python's ==: by value, also inside lists and dictionaries, and no text equals a number. */
function equal(a: Value, b: Value): boolean {
  const plain = ({ type, value }: Value): unknown => (type === 'BooleanValue' ? Number(value) : value);
  const kind = ({ type, value }: Value): string =>
    isNumber({ type, value }) || type === 'BooleanValue' ? 'number' : type;
  if (kind(a) !== kind(b)) return false;
  if (Array.isArray(a.value) && Array.isArray(b.value))
    return (
      a.value.length === b.value.length && a.value.every((item, i) => equal(item, (b.value as Value[])[i]!))
    );
  if (a.value instanceof Map && b.value instanceof Map) {
    const other = b.value as Map<string, Value>;
    return (
      a.value.size === other.size &&
      [...(a.value as Map<string, Value>)].every(
        ([key, item]) => other.has(key) && equal(item, other.get(key)!),
      )
    );
  }
  return plain(a) === plain(b);
}

/** Python's repr of a text: single quotes, unless only they occur in it. */
function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escapes: Record<string, string> = {
    '\\': '\\\\',
    '\n': '\\n',
    '\r': '\\r',
    '\t': '\\t',
    [quote]: `\\${quote}`,
  };
  return `${quote}${[...text].map((char) => escapes[char] ?? char).join('')}${quote}`;
}

/** Python's str of what a template prints. */
function printed(value: Value, inside = false): string {
  const inner = (item: Value): string => printed(item, true);
  if (value.type === 'UndefinedValue') return inside ? 'Undefined' : '';
  if (value.type === 'NullValue') return 'None';
  if (typeof value.value === 'boolean') return value.value ? 'True' : 'False';
  if (typeof value.value === 'string') return inside ? quoted(value.value) : value.value;
  if (Array.isArray(value.value)) {
    const items = (value.value as Value[]).map(inner);
    if (value.type !== 'TupleValue') return `[${items.join(', ')}]`;
    return `(${items.join(', ')}${items.length === 1 ? ',' : ''})`;
  }
  if (value.value instanceof Map) {
    const entries = [...(value.value as Map<string, Value>)];
    return `{${entries.map(([key, item]) => `${quoted(key)}: ${inner(item)}`).join(', ')}}`;
  }
  return String(value);
}

/** Statements that print nothing; the library gives them the value None. */
const silent = new Set(['Set', 'Macro', 'Comment']);

/** `{% break %}` or `{% continue %}` on its way to the loop, with what the iteration printed before it. */
class LoopControl extends Error {
  printed = '';

  constructor(readonly kind: 'break' | 'continue') {
    super(`${kind} outside a loop`);
  }
}

/** Statements and loop bodies of one rendering; far above any real template, seconds at most. */
const mostBlocks = 5_000_000;

export class PythonInterpreter extends Base {
  readonly #loops: { body: unknown; broken: boolean; completed: boolean }[] = [];
  #blocks = 0;

  override evaluate(node: Node | undefined, environment: Environment): Value {
    switch (node?.type) {
      case 'Evaluated':
        return node.value as Value;
      case 'Break':
        throw new LoopControl('break');
      case 'Continue':
        throw new LoopControl('continue');
      default:
        return super.evaluate(node, environment);
    }
  }

  override evaluateBlock(statements: Node[], environment: Environment): Value {
    this.#blocks += statements.length + 1;
    if (this.#blocks > mostBlocks) throw new Error(`it runs for more than ${mostBlocks} statements`);
    const loop = this.#loops.at(-1);
    const isBody = loop?.body === statements;
    // The library goes on with the items after a break: they print nothing.
    if (isBody && loop.broken) return runtimeValue('');
    let text = '';
    try {
      for (const statement of statements) {
        const value = this.evaluate(statement, environment);
        if (!silent.has(statement.type)) text += printed(value);
      }
    } catch (error) {
      if (!(error instanceof LoopControl)) throw error;
      error.printed = text + error.printed;
      if (!isBody) throw error;
      loop.broken ||= error.kind === 'break';
      return runtimeValue(error.printed);
    }
    if (isBody) loop.completed = true;
    return runtimeValue(text);
  }

  override evaluateFor(node: Node, environment: Environment): Value {
    const { defaultBlock, body } = node as Node & { defaultBlock: Node[] };
    let known: Node = { ...node, defaultBlock: [] };
    const iterable = node.iterable as Node;
    if (iterable.type !== 'SelectExpression') {
      const value = this.evaluate(iterable, environment);
      if (value.type === 'UndefinedValue') return this.evaluateBlock(defaultBlock, environment);
      known = { ...known, iterable: evaluated(value) };
    }
    const loop = { body, broken: false, completed: false };
    this.#loops.push(loop);
    let result: Value;
    try {
      result = super.evaluateFor(known, environment);
    } finally {
      this.#loops.pop();
    }
    // As in Jinja, `else` also follows a loop none of whose iterations came to its end.
    if (loop.completed) return result;
    return runtimeValue(`${result.value}${this.evaluateBlock(defaultBlock, environment).value}`);
  }

  override evaluateMemberExpression(node: Node, environment: Environment): Value {
    const object = this.evaluate(node.object as Node, environment);
    const property = node.property as Node;
    if (object.type === 'UndefinedValue') {
      const { type, value } = node.object as Node;
      throw new Error(
        `${type === 'Identifier' ? `'${value}'` : 'a value whose members are read'} is undefined`,
      );
    }
    const simple = property.type !== 'SliceExpression';
    const key = simple && node.computed ? this.evaluate(property, environment) : undefined;
    if (typeof object.value === 'string') {
      const name = node.computed ? key?.value : property.value;
      if (typeof name === 'string' && Object.hasOwn(methods, name))
        return runtimeValue(methods[name]!(object.value));
      // By characters, as in Python, not by UTF-16 units.
      if (key?.type === 'IntegerValue') return runtimeValue([...object.value].at(key.value as number));
    }
    const known = { ...node, object: evaluated(object), ...(key && { property: evaluated(key) }) };
    return super.evaluateMemberExpression(known, environment);
  }

  override evaluateBinaryExpression(node: Node, environment: Environment): Value {
    const { value: operator } = node.operator as { value: string };
    if (operator === 'and' || operator === 'or') return super.evaluateBinaryExpression(node, environment);
    const left = this.evaluate(node.left as Node, environment);
    const right = this.evaluate(node.right as Node, environment);
    if (operator === '==' || operator === '!=')
      return runtimeValue(equal(left, right) === (operator === '=='));
    if (operator === '~') return runtimeValue(printed(left) + printed(right));
    if (operator === 'in' || operator === 'not in') {
      if (Array.isArray(right.value))
        return runtimeValue(
          (right.value as Value[]).some((item) => equal(left, item)) === (operator === 'in'),
        );
    }
    const result = super.evaluateBinaryExpression(
      { ...node, left: evaluated(left), right: evaluated(right) },
      environment,
    );
    if (operator === '%' && isNumber(left) && isNumber(right)) {
      // The sign is the divisor's there, the dividend's here.
      const [remainder, divisor] = [result.value as number, right.value as number];
      if (divisor === 0) throw new Error('modulo by zero');
      if (remainder !== 0 && remainder < 0 !== divisor < 0) result.value = remainder + divisor;
    }
    return result;
  }

  override applyFilter(operand: Value, filter: Node, environment: Environment): Value {
    const call = filter.type === 'CallExpression';
    const { value: name } = (call ? filter.callee : filter) as Node;
    const { value: text } = operand;
    if (name === 'string') return runtimeValue(printed(operand));
    if (typeof text !== 'string') return super.applyFilter(operand, filter, environment);
    if (name === 'length' || name === 'count') return runtimeValue([...text].length);
    if (name === 'trim') {
      const [chars] = call ? (filter.args as Node[]) : [];
      const set =
        chars === undefined
          ? undefined
          : this.evaluate((chars.value as Node)?.type ? (chars.value as Node) : chars, environment).value;
      return runtimeValue(stripped(text, set, true, true));
    }
    if (name === 'capitalize' || name === 'title') return runtimeValue(methods[name]!(text)());
    return super.applyFilter(operand, filter, environment);
  }
}

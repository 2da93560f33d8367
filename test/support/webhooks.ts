import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);

/** A payload as a publisher writes it, and as it has to arrive. */
export interface Payload {
  /** What is special about it, or the type of the event. */
  readonly name: string;
  /** JSON text. */
  readonly sent: string;
  /** The same JSON text without white space between its tokens. */
  readonly arrives: string;
}

interface Webhook {
  readonly name: string;
  readonly examples: readonly unknown[];
}

/** Every example of a webhook that GitHub publishes, indented as a person would write it. */
export function webhookPayloads(): Payload[] {
  const webhooks = JSON.parse(
    readFileSync(require.resolve('@octokit/webhooks-examples'), 'utf8'),
  ) as Webhook[];
  return webhooks.flatMap(({ name, examples }) =>
    examples.map((example) => ({
      name: `github.${name}`,
      sent: JSON.stringify(example, null, 2),
      arrives: JSON.stringify(example),
    })),
  );
}

const asWritten = (name: string, text: string): Payload => ({ name, sent: text, arrives: text });

/** Payloads that something on the way could change, break or take for the end of an event. */
export const HOSTILE_PAYLOADS: readonly Payload[] = [
  asWritten('line breaks', String.raw`"one\ntwo\r\nthree\rfour\n\nid: 5\ndata: six\n\n"`),
  asWritten(
    'the line ends of other alphabets',
    '"next line \u0085, line separator \u2028, paragraph separator \u2029"',
  ),
  asWritten('a byte order mark', '{"\uFEFFname":"\uFEFFvalue"}'),
  asWritten('emoji', '["👍🏽","👩‍👩‍👧‍👦","🏳️‍🌈","e\u0301","\u{10FFFF}"]'),
  asWritten('what looks like fields', '"data: 1\\nevent: bye\\nretry: 0\\n: comment"'),
  asWritten('NUL and other controls as escapes', String.raw`"\u0000\u0001\b\f\n\r\t\u001f\u007f"`),
  asWritten('escapes that are not needed', String.raw`{"\u00e9":"\u0041\/\"\\"}`),
  asWritten('letters that could be escapes', '{"é":"A/","\u007f":"\u009f"}'),
  asWritten('half a surrogate pair', String.raw`["\ud800","\udc00","\ud83d\ude00","\uD83D"]`),
  asWritten('an integer beyond 2^53', '9007199254740993'),
  asWritten('2^63 and more', '[9223372036854775807,9223372036854775808,-9223372036854775809]'),
  asWritten('a number beyond every double', '[1e400,-1e400,1e-400]'),
  asWritten('numbers in other spellings', '[-0,0,-0.0,1.0,1E+2,1e2,100,0.10,1.7976931348623157e308]'),
  asWritten('more digits than a double has', '0.1234567890123456789012345678901234567890'),
  asWritten('a member twice', '{"a":1,"b":2,"a":3}'),
  asWritten('keys that look like array indices', '{"b":1,"2":2,"1":3,"a":4,"01":5,"-1":6}'),
  asWritten(
    'names of the prototype',
    '{"__proto__":{"admin":true},"constructor":1,"toString":2,"hasOwnProperty":null}',
  ),
  asWritten(
    'the names of the envelope',
    '{"id":"x","data":{"data":[]},"type":1,"position":"0","createdAt":null}',
  ),
  asWritten('empty names and values', '{"":{"":[]},"a":"","b":{},"c":[]}'),
  asWritten('100 levels of arrays', '['.repeat(100) + ']'.repeat(100)),
  asWritten('100 levels of objects', '{"a":'.repeat(99) + '{}' + '}'.repeat(99)),
  asWritten('brackets and quotes in strings', String.raw`{"a]}":"[{\"","b\\":"\\\"","c":"}]"}`),
  ...['null', 'true', 'false', '0', '""', '{}', '[]', '" "'].map((text) => asWritten(`${text} alone`, text)),
  {
    name: 'white space of every kind between tokens',
    sent: '\r\n{ \t"a b" :\n[ 1 ,\r2\t,\n\n"  c\\n  " ]\r\n,"d":{ } , "e" : [\t]\n}\r',
    arrives: '{"a b":[1,2,"  c\\n  "],"d":{},"e":[]}',
  },
  { name: 'white space around a number', sent: '\t 1.50 \r\n', arrives: '1.50' },
];

/**
 * The closed lists of words that may stand around a number, and numbers in words. A word that is in none of them is a
 * unit where it follows the number, and makes the phrase unreadable where it stands before it.
 */

const set = (words: string): ReadonlySet<string> => new Set(words.trim().split(/\s+/));

/** Words after a number that multiply it. */
export const magnitudes: Readonly<Record<string, number>> = {
  dozen: 12,
  dozens: 12,
  hundred: 100,
  hundreds: 100,
  thousand: 1e3,
  thousands: 1e3,
  lakh: 1e5,
  million: 1e6,
  millions: 1e6,
  crore: 1e7,
  billion: 1e9,
  billions: 1e9,
  trillion: 1e12,
  trillions: 1e12,
};

export const magnitudeOf = (word: string): number | undefined => {
  const lower = word.toLowerCase();
  return Object.hasOwn(magnitudes, lower) ? magnitudes[lower] : undefined;
};

/** Before a number: it is a rounded one, which changes nothing. */
export const hedges = set(
  'about approximately approx around roughly nearly almost exactly precisely only just rs usd eur',
);

export const negations = set(
  `not never cannot cant isnt wont neither nor without except excluding wrong incorrect false impossible untrue`,
);

/** A word such as `isn't` or `can't` (with either apostrophe) or one of the list. */
export const isNegation = (word: string): boolean =>
  negations.has(word) || /n['’]t$/.test(word) || word === 'instead' || word === 'unlike';

/** Words after a number that make it another number, a bound, a time or a part of one, so that it is not a unit. */
export const meaningful = set(
  `am pm bc ad pair squared cubed root power modulo mod remainder remainders factorial plus minus divided multiplied
  halves half thirds fourths quarters fifths sixths sevenths eighths ninths tenths hundredths thousandths millionths
  quarter twice double doubled triple tripled than least most over under above below up minimum maximum between through
  or out either if unless else otherwise but base binary octal hex hexadecimal radix mille permille bps basis bn mn mil gross
  negative deficit debt short
  not never cannot cant isnt wont neither nor without except excluding wrong incorrect false impossible untrue instead
  unlike unknown unlikely too a. p.`,
);

export const isMeaningful = (word: string): boolean =>
  meaningful.has(word) || isNegation(word) || magnitudeOf(word) !== undefined;

/** Words that may stand between a verb, or the start of an answer, and the number. */
export const fillers = set(
  `the a an of is are be was were been equal equals to in that it its it's also then thus so therefore hence total
  altogether overall now still indeed clearly simply actually answer final correct he she they we i you his her their
  there this these those which will would should can could must may might have has had get number amount sum value
  result cost price area perimeter volume length width height distance speed age weight score profit time mean median
  average radius diameter count quantity probability chance population us all`,
);

/** Verbs after which the number is what the sentence says, whatever its subject. */
export const verbs = set(
  `is are was were be equals equal has have had needs need needed costs cost makes make made gets get got earns earn
  earned pays pay paid spends spend spent saves save saved sells sell sold buys buy bought eats eat ate owes owe owed
  uses use used takes take took collects collect collected receives receive received gives give gave gained wins won
  scores scored weighs weigh weighed contains contain holds hold becomes become drinks drank reads read walks walked
  runs ran drives drove travels traveled travelled works worked charges charge bakes baked picks picked plants planted
  grows grew raised counts counted finds found produces produced totals totaled measures lasts owns keeps kept wants
  requires required sees saw completed completes invited brings brought`,
);

/** Here an explanation starts, which says nothing new. */
export const explanations = set('because since as which where given when assuming considering');

/** Prepositions after which another number belongs to the unit: "6 of the 12 apples", "15 gallons in 30 days". */
export const prepositions = set('of in for per each every after on at during');

/** Short runs of letters that are words, or units and abbreviations without a vowel. */
const shortRuns = set(
  `ah al am an as at aw ax be by do ed eh em en ex go ha he hi id if in is it la ma me mi mu my no of oh ok on or ox
  oz pa pi re so ta ti to up us we ye yo
  tv cd dvd pc dj gps pm hr hrs yr yrs mph kph rpm mr mrs
  bps bpm cal db fps ft gb gw kb kcal kj km kmh kn kph kv kw kwh lb lbs mb mg ml mm mpg mv mw nc nm pcs pct pf ppm psi pt pts
  cu px qt rs sq tb th tsp wk wks yd yds cm kg hz khz mhz ghz ms ns kpa mpa gpa nf uf mj kev mev gev std vs mol`,
);

/** `xy`, `ab`, `abc`, `kx`: a run of two or three lower-case letters that is a product of variables, no word. */
export const isProduct = (run: string): boolean =>
  !shortRuns.has(run) &&
  (/^(?:[xyz]{2,3}|[b-df-hj-np-tv-xz]{2,3}|[a-z]{2})$/.test(run) ||
    (/^[abc]{3}$/.test(run) && run !== 'cab'));

const ones =
  `zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
  seventeen eighteen nineteen`.split(/\s+/);
const tens = 'twenty thirty forty fifty sixty seventy eighty ninety'.split(' ');
const small = new Map<string, number>([
  ...ones.map((word, index) => [word, index] as const),
  ...tens.map((word, index) => [word, 10 * (index + 2)] as const),
]);

export const isNumberWord = (word: string): boolean => small.has(word);

/** Value of `five`, `twenty-one`, `one hundred and five`, `three million`; undefined for what is not one number. */
export function numberOfWords(words: readonly string[]): number | undefined {
  let total = 0;
  /** The part below the next thousand. */
  let group = 0;
  let previous = 0;
  let lowestScale = Infinity;
  for (const [index, word] of words.entries()) {
    const value = small.get(word);
    const scale = magnitudeOf(word);
    if (value !== undefined) {
      // "twenty one", "hundred five", but not "five six" or "ten two".
      const follows = index === 0 || previous >= 100 || (previous >= 20 && value >= 1 && value <= 9);
      if (!follows) return undefined;
      group += value;
      previous = value;
    } else if (word === 'and' && previous === 100 && index + 1 < words.length) continue;
    else if (word === 'hundred' && index > 0 && group > 0 && group < 10) {
      group *= 100;
      previous = 100;
    } else if (scale !== undefined && scale >= 1000 && group > 0 && scale < lowestScale) {
      total += group * scale;
      group = 0;
      lowestScale = scale;
      previous = scale;
    } else return undefined;
  }
  return words.length === 0 ? undefined : total + group;
}

const parts = new Map<string, number>([
  ...'half third quarter fifth sixth seventh eighth ninth tenth'
    .split(' ')
    .map((word, index) => [word, index + 2] as const),
  ['fourth', 4],
]);

/** `one half`, `three quarters`, `two and a half` as digits. */
function spelledFraction(words: readonly string[]): string | undefined {
  const joint = words.lastIndexOf('and');
  const [first, last = ''] = [words.slice(joint + 1, -1), words.at(-1)];
  const count = first.join() === 'a' || first.join() === 'one' ? 1 : numberOfWords(first);
  const denominator = parts.get(count === 1 ? last : last === 'halves' ? 'half' : last.replace(/s$/, ''));
  const isPlural = last.endsWith('s');
  if (count === undefined || count === 0 || denominator === undefined || isPlural !== count > 1)
    return undefined;
  const whole = joint < 0 ? 0 : numberOfWords(words.slice(0, joint));
  if (whole === undefined || first.length === 0) return undefined;
  return whole === 0 ? `${count}/${denominator}` : `${whole} ${count}/${denominator}`;
}

/** The number that a whole text spells, as digits. */
export function spelledNumber(text: string): string | undefined {
  if (text.length > 100) return undefined;
  const words = text
    .trim()
    .toLowerCase()
    .split(/[\s-]+/);
  const value =
    words[0] === 'a' && words.length > 1 ? numberOfWords(['one', ...words.slice(1)]) : numberOfWords(words);
  return value === undefined ? spelledFraction(words) : String(value);
}

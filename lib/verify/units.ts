/**
 * Units do not count, but where both sides write a known one they must not contradict: 20 cm^2 is 20 and is not
 * 20 cm^3. Nothing is converted, and unknown words (apples, points) contradict nothing.
 */
const spellings: Record<string, string> = {
  mm: 'mm|millimet(?:er|re)s?',
  cm: 'cm|centimet(?:er|re)s?',
  m: 'm|met(?:er|re)s?',
  km: 'km|kms|kilomet(?:er|re)s?',
  in: 'in|inch(?:es)?',
  ft: 'ft|foot|feet',
  yd: 'yds?|yards?',
  mi: 'mi|miles?',
  mg: 'mg|milligrams?',
  g: 'g|grams?',
  kg: 'kg|kgs|kilograms?|kilos?',
  lb: 'lbs?|pounds?',
  oz: 'oz|ounces?',
  ml: 'ml|mL|millilit(?:er|re)s?',
  l: 'l|L|lit(?:er|re)s?',
  s: 's|secs?|seconds?',
  min: 'min|mins|minutes?',
  h: 'h|hrs?|hours?',
  day: 'days?',
  week: 'weeks?',
  month: 'months?',
  year: 'years?|yrs?',
  cent: 'cents?|¢',
  dollar: 'dollars?|usd|USD|bucks?',
  euro: 'euros?|EUR',
  yen: 'yen|JPY|yuan|RMB|CNY',
  rupee: 'rupees?|INR',
  degree: 'degrees?|deg',
  radian: 'radians?|rads?',
};
/** Units that do not stand side by side with others. */
const single: Record<string, string> = {
  N: 'N|newtons?',
  kN: 'kN',
  J: 'J|joules?',
  kJ: 'kJ|kilojoules?',
  W: 'W|watts?',
  kW: 'kW|kilowatts?',
  V: 'V|volts?',
  A: 'A|amps?|amperes?',
  Hz: 'Hz|hertz',
  kHz: 'kHz|kilohertz',
  MHz: 'MHz|megahertz',
  Pa: 'Pa|pascals?',
  kPa: 'kPa|kilopascals?',
  gallon: 'gallons?|gal',
  quart: 'quarts?|qts?',
  pint: 'pints?',
  ton: 'tons?|tonnes?',
};
const known = new Map<RegExp, string>(
  Object.entries({ ...spellings, ...single }).map(([name, pattern]) => [
    new RegExp(`^(?:${pattern})$`),
    name,
  ]),
);
/** Units whose amounts may stand side by side: 12 feet 3 inches, 3 hours and 15 minutes. */
export const measure = `(?:${Object.values(spellings).join('|')})`;

const powers: Record<string, string> = { square: '2', sq: '2', cubic: '3', cu: '3' };

interface Unit {
  name: string;
  /** One of the table, so that another one contradicts it. */
  isKnown: boolean;
  power: string;
  /** `km` of km/h, where it is known. */
  above?: string | undefined;
}

/** £5 are 5 pounds, which the table has as a weight. */
const currencies: Record<string, string> = { $: 'dollar', '€': 'euro', '£': 'lb', '¥': 'yen', '₹': 'rupee' };

/** Of an amount that is all of the text: $5, 5 €. */
function currencyOf(text: string): string | undefined {
  const [, before, after] = /^\s*(?:US)?\\?([$€£¥₹])?\s*[\d.,]+\s*([€£¥₹])?\s*$/.exec(text) ?? [];
  return currencies[before ?? after ?? ''];
}

const knownUnit = (unit: string): string | undefined =>
  [...known].find(
    ([pattern]) => pattern.test(unit) || (unit.length > 2 && pattern.test(unit.toLowerCase())),
  )?.[1];

/** `cm^2` of "20 cm^2", "20\text{ cm}^2", "20 square centimeters"; undefined where the text does not end in a known unit. */
export function unitOf(text: string): Unit | undefined {
  const plain = withPower(text.slice(-80))
    .replace(/\\(?:text|mathrm|textrm|rm|mbox)\b|[{}~$]|\\[ ,;!]/g, ' ')
    .replace(/\^?\s*\{?\s*\\(?:circ|degree)(?![A-Za-z])\s*\}?|°/g, ' degrees ')
    .replace(/²/g, '^2')
    .replace(/³/g, '^3');
  const currency = currencyOf(text);
  if (currency !== undefined) return { name: currency, isKnown: true, power: '1' };
  const match = /(?:(square|sq\.?|cubic|cu\.?)\s+)?([A-Za-z]+|¢)\.?\s*(?:\^\s*(\d))?[\s.$)]*$/.exec(plain);
  if (match === null) return undefined;
  const [, word, unit = '', power] = match;
  const before = plain.slice(0, match.index);
  // A unit follows an amount or another unit: "5 m", "11.6 lb / in^2".
  if (!/(?:[\d%)]|\\pi)\s*\(?$|[\d%)]\s*[A-Za-z]+\s*(?:\/|per\b)\s*$/.test(before)) return undefined;
  const name = knownUnit(unit);
  const above = /([A-Za-z]+)\s*(?:\^\s*\d\s*)?(?:\/|\bper\b)\s*$/.exec(before)?.[1];
  if (name === undefined && unit.length < 2) return undefined;
  return {
    name: name ?? unit.toLowerCase().replace(/s$/, ''),
    isKnown: name !== undefined,
    power: power ?? powers[word?.replace('.', '') ?? ''] ?? '1',
    above: above === undefined ? undefined : knownUnit(above),
  };
}

/** True where both texts end in known units that differ, or in powers of the same word that differ. */
export function unitsContradict(gold: string, predicted: string): boolean {
  if (!/[A-Za-z¢$€£¥₹°]/.test(gold)) return false;
  const ofList = /[,;]|\band\b/.test(gold) ? listUnitsContradict(gold, predicted) : undefined;
  if (ofList !== undefined) return ofList;
  const unit = unitOf(gold);
  const found = unit && unitOf(predicted);
  // 45' are minutes or feet.
  if (unit?.name === 'degree' && /\d\s*(?:['′’]|\^\s*\{?\\prime\}?)\s*$/.test(predicted)) return true;
  if (unit === undefined || found === undefined) return false;
  // $60 may be the start of a formula: $60^\circ $.
  if (unit.name === 'degree' && found.name === 'dollar') return false;
  if (unit.above && found.above && unit.above !== found.above) return true;
  if (unit.name === found.name) return unit.power !== found.power;
  return unit.isKnown && found.isKnown;
}

/** An item of a list: its number, where it is a plain one, and its unit. */
function measureOf(item: string): { amount: number; unit: string } | undefined {
  const unit = unitOf(item);
  const plain = item.replace(/\\(?:text|mathrm|textrm|rm|mbox)(?![A-Za-z])|\\[ ,;!]/g, ' ').trim();
  const number = /^[^\d]{0,12}?(-?\d[\d,]*(?:\.\d+)?|-?\.\d+)(?![\d/^]|\s?\\)/.exec(plain)?.[1];
  if (!unit?.isKnown) return undefined;
  return {
    amount: Number(number?.replaceAll(',', '')),
    unit: `${unit.above ?? ''}/${unit.name}^${unit.power}`,
  };
}

/** 3 ft, 4 in are no 3 m, 4 in and no 4 ft, 3 in: undefined where not all items end in known units. */
function listUnitsContradict(gold: string, predicted: string): boolean | undefined {
  const measures = (text: string): ReturnType<typeof measureOf>[] =>
    text
      .slice(0, 400)
      .split(/[;,](?!\d{3}(?!\d))|\band\b/)
      .map((item) => measureOf(item.trim()));
  const [expected, found] = [measures(gold), measures(predicted)];
  if (expected.length < 2 || expected.length !== found.length) return undefined;
  if (expected.includes(undefined) || found.includes(undefined)) return undefined;
  const arePlain = [...expected, ...found].every((item) => !Number.isNaN(item?.amount));
  const key = (items: typeof expected): string =>
    items
      .map((item) => `${arePlain ? item?.amount : ''}${item?.unit}`)
      .sort()
      .join();
  return key(expected) !== key(found);
}

/** True where the prediction is an amount of money and the gold answer one of another currency, or no money. */
export function currencyContradicts(gold: string, predicted: string): boolean {
  return currencyOf(predicted) !== undefined && unitsContradict(gold, predicted);
}

/** Units that are typed with a power behind: cm2. */
const powered = '(?:mm|cm|dm|km|m|in|ft|yd|mi|s)';
const typedPower = new RegExp(
  String.raw`(\d\s*(?:\\[ ,;!]|~)*\s*(?:\\(?:text|mathrm|textrm|rm|mbox)\s*\{?\s*)?(?:[A-Za-z]+\s*\/\s*)?${powered})([23])(?=[\s}.,$)*]*$)`,
);
const powersAnywhere = new RegExp(
  String.raw`(\d\s?|\d\s?[A-Za-z]{1,3}\s?\/\s?)(${powered})([23])(?![\dA-Za-z])`,
  'g',
);

/** The same anywhere in a sentence. */
export const withPowers = (text: string): string => text.replace(powersAnywhere, '$1$2^$3');

/** 24 cm2 as 24 cm^2, 9.8 m/s2 as 9.8 m/s^2. */
export const withPower = (text: string): string =>
  /[a-z][23]/.test(text) ? text.replace(typedPower, '$1^$2') : text;

const percentage = /%|\bper\s?cent\b|\bpercent(?:age)?s?\b|\bpct\b/i;
/** Words after a share of something, or after a number in a sentence, that are no unit. */
const noUnits = new Set(
  `of in on to for at by as is are was were and or because since when where which so if that than from with after
  before chance chances probability likelihood odds discount rate interest increase decrease growth decline change tax
  tip off more less higher lower larger greater smaller annual annually yearly margin profit loss error fraction
  ratio proportion share part total times e rounded approximately about`.split(/\s+/),
);

/** True where one text is a percentage and the other an amount with a unit: 5 per day is not 5 %. */
export function percentContradicts(gold: string, predicted: string): boolean {
  const [isPercent, found] = [percentage.test(gold), percentage.test(predicted)];
  if (isPercent === found) return false;
  const other = isPercent ? predicted : gold;
  if (currencyOf(other) !== undefined) return true;
  const plain = other
    .slice(0, 400)
    .replace(/\\(?:text|mathrm|textrm|rm|mbox)(?![A-Za-z])|[{}~$]|\\[ ,;!]/g, ' ')
    .replace(/\^?\s*\\(?:circ|degree)(?![A-Za-z])|°/g, ' degrees ');
  const word = /\d\s*[-(]?\s*(?<!\\)\b([A-Za-z]+)\b/.exec(plain)?.[1]?.toLowerCase();
  return word !== undefined && !noUnits.has(word);
}

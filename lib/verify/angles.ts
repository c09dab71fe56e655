/** Angles in degrees and as values of inverse functions, the one conversion that is made. */
import { equalValues, evaluate } from './evaluate.js';
import type { Node } from './expression.js';
import { some } from './nodes.js';

/** An angle in radians: \arctan 1, 2\arcsin x, \pi - \arccos x. */
function isArc(node: Node): boolean {
  switch (node.kind) {
    case 'apply':
      return node.name.startsWith('\\arc');
    case 'negate':
      return isArc(node.operand);
    case 'divide':
      return isArc(node.numerator) && evaluate(node.denominator) !== undefined;
    case 'multiply':
      return node.factors.filter(isArc).length === 1;
    case 'add':
      return node.terms.some(isArc) && !some(node, ({ kind }) => kind === 'degree');
    default:
      return false;
  }
}

const isDegrees = (node: Node): boolean =>
  node.kind === 'degree' || (node.kind === 'negate' && isDegrees(node.operand));

/** \arctan 1 is 45 degrees: the one angle is in degrees and the other one an inverse function's value. */
export function isSameAngle(a: Node, b: Node): boolean {
  const [degrees, arc] = isDegrees(a) ? [a, b] : [b, a];
  if (!isDegrees(degrees) || !isArc(arc)) return false;
  const [expected, radians] = [evaluate(degrees), evaluate(arc)];
  if (expected === undefined || radians === undefined) return false;
  const approximate = (radians.approximate * 180) / Math.PI;
  return equalValues(expected, { exact: undefined, approximate, form: 'irrational' });
}
